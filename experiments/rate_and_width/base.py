"""Decoders that differ in width alone, trained on generated pages."""

import functools
import itertools
import pathlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from text import FIRST_HOME, VOCAB, pages

from sleep_jax.baselines.finetune import finetune
from sleep_jax.baselines.model import Leaves, Model
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.models.decoder import Decoder, lm_logits
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.runtime.progress import phase_progress

WIDTHS, RANKS = (64, 128, 256, 512, 1024), (16, 64)
LAYERS, HEADS = 2, 4
STEPS = {64: 500, 128: 500, 256: 500, 512: 200, 1024: 80}  # by width: wide ones learn sooner
ROWS = 24  # pages of an update
OTHER_WEIGHT = 0.05  # of a name in the loss, where a home has 1: names are unpredictable


def decoder_of(width: int, rank: int = 0, layers: int = LAYERS) -> DecoderConfig:
    """The decoder of a width; with a rank it has one slot of it in every layer."""
    levels = (LevelConfig(slots=1, rank=rank),) if rank else ()
    return DecoderConfig(
        vocab=VOCAB,
        width=width,
        hidden=width,
        layers=layers,
        heads=HEADS,
        kv_heads=HEADS,
        head_dim=width // HEADS,
        tie_embeddings=True,
        remat="none",
        memory=MemoryConfig(levels=levels, from_context=bool(levels)),
    )


def load_base(folder: pathlib.Path, width: int):
    """The parameters of a base, from `folder`; trained and written there if missing."""
    path = folder / f"base-{width}.npz"
    if not path.exists():
        np.savez(path, **flax.traverse_util.flatten_dict(pretrain(width), sep="/"))
    with np.load(path) as leaves:
        return flax.traverse_util.unflatten_dict(dict(leaves), sep="/")


def pretrain(width: int):
    """The parameters of a decoder that has learnt the language: Adam, whose peak rate falls as
    1 / sqrt(width), along a cosine to zero."""
    cfg, steps = decoder_of(width), STEPS[width]
    variables = Decoder(cfg).init({"params": jax.random.key(0)}, jnp.zeros((1, 1), jnp.int32))
    peak = 5e-3 * (64 / width) ** 0.5
    rate = optax.warmup_cosine_decay_schedule(0.0, peak, steps // 10, steps)
    rng = np.random.default_rng(1)
    with phase_progress(f"width {width}", steps) as bar:
        model = finetune(
            Model(cfg, {"params": variables["params"]}),
            Leaves("params/.*"),
            next_token_loss,
            (pages(rng, ROWS) for _ in itertools.count()),
            optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.98)),
            steps=steps,
            updates_per_call=20,
            log=lambda step, figures: bar.advance(homes=figures["homes"]),
        )
    return jax.tree.map(np.asarray, model.variables["params"])


def next_token_loss(model: Model, tokens, rng):
    """(sum, weights) of the next-token loss of pages int32 [rows, time], and that of homes alone in
    the second half of a page, where nearly all were named before."""
    cfg, variables = model.cfg, model.variables
    targets = tokens[:, 1:]
    is_home = targets >= FIRST_HOME
    nats = optax.softmax_cross_entropy_with_integer_labels(
        lm_logits(cfg, variables["params"], Decoder(cfg).apply(variables, tokens[:, :-1])), targets
    )
    weight = jnp.where(is_home, 1.0, OTHER_WEIGHT)
    late = is_home & (jnp.arange(targets.shape[1]) >= targets.shape[1] // 2)
    homes = jnp.sum(nats, where=late), jnp.sum(late)
    return jnp.sum(weight * nats), jnp.sum(weight), {"homes": homes}


@functools.partial(jax.jit, static_argnames="cfg")
def next_token(cfg: DecoderConfig, variables, tokens, mask):
    """The likeliest next token of prompts int32 [n, time]: [n]."""
    hidden = Decoder(cfg).apply(variables, tokens, mask)
    last = jnp.sum(mask, axis=1) - 1
    hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    return jnp.argmax(lm_logits(cfg, variables["params"], hidden), axis=-1)
