"""The tiny decoder, its memory of k = 3 levels, and its pre-training of a few minutes."""

import functools
import pathlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from facts import HELD_OUT, INDEX, SENTENCE, WORDS, Fact, invent, pages
from meta_training import meta_train, page_terms

from sleep_jax.baselines.finetune import finetune
from sleep_jax.baselines.model import Leaves, Model
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.models.decoder import Decoder, lm_logits
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.runtime.progress import phase_progress
from sleep_jax.wake.stream import WakeConfig

PAGE = 60  # tokens: six sentences
KNOWN = 100  # facts that the base is pre-trained on
STEPS = (300, 120)  # of pre-training, and of meta-training
LENGTH = 16.0  # norm of the one step of Eq. 2 that writes an episode
# Gradients are always clipped, so the length of an update is `clip` times the learning rate.
WAKE = WakeConfig(context=PAGE, max_grad_norm=1e-6)


def memory_config(ranks: tuple[int, int]) -> MemoryConfig:
    """The memory of k = 3 levels; ranks are those of a slot of level 2 and of level 3."""
    return MemoryConfig(
        levels=(
            LevelConfig(period=1, slots=0, rank=128, learning_rate=1e6 * LENGTH),
            LevelConfig(period=5, slots=5, rank=ranks[0], learning_rate=4e6),
            LevelConfig(period=0, slots=4, rank=ranks[1]),
        ),
        unit="episodes",
        stride=PAGE,
        from_context=False,
    )


CFG = DecoderConfig(
    vocab=len(WORDS),
    width=128,
    hidden=384,
    layers=4,
    heads=4,
    kv_heads=4,
    head_dim=32,
    tie_embeddings=True,
    remat="none",
    memory=memory_config((16, 32)),
)


def known_facts() -> list[Fact]:
    """The facts that the base is pre-trained on; the anchors of every later day."""
    return invent(np.random.default_rng(0), KNOWN)


def load_base(path: pathlib.Path):
    """The parameters of the pre-trained base, from `path`; trained and written there if missing."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        params = meta_train(CFG, pretrain(STEPS[0]), known_facts(), LENGTH, STEPS[1])
        np.savez(path, **flax.traverse_util.flatten_dict(params, sep="/"))
    with np.load(path) as leaves:
        return flax.traverse_util.unflatten_dict(dict(leaves), sep="/")


def pretrain(steps: int, rows: int = 32, updates_per_call: int = 25):
    """Teaches a new base its language: next-token loss on pages, Adam, a cosine to zero."""
    cfg = CFG.replace(memory=MemoryConfig())
    variables = Decoder(cfg).init({"params": jax.random.key(0)}, jnp.zeros((1, 1), jnp.int32))
    rate = optax.warmup_cosine_decay_schedule(0.0, 2e-3, steps // 10, steps)

    def batches():
        rng, known = np.random.default_rng(1), known_facts()
        while True:
            tokens = pages(rng, known, updates_per_call * rows, PAGE // SENTENCE)
            yield from tokens.reshape(updates_per_call, rows, PAGE)

    with phase_progress("pre-train", steps) as bar:
        model = finetune(
            Model(cfg, variables),
            Leaves("params/.*"),
            next_token_loss,
            batches(),
            optax.adam(rate),
            steps=steps,
            updates_per_call=updates_per_call,
            log=lambda step, figures: bar.advance(loss=figures["loss"]),
        )
    return model.variables["params"]


def next_token_loss(model: Model, tokens, rng):
    """`page_terms` of a model, as the loss of `finetune`."""
    return page_terms(model.cfg, model.variables, tokens)


def is_recalled(cfg: DecoderConfig, variables, facts: list[Fact]) -> np.ndarray:
    """Which facts' homes the model names, greedily and without any context: bool [facts]."""
    prompts = np.asarray([fact.prompt(HELD_OUT) for fact in facts], np.int32)
    homes = np.asarray([INDEX[fact.home] for fact in facts])
    return np.asarray(_next_token(cfg, variables, prompts)) == homes


@functools.partial(jax.jit, static_argnames="cfg")
def _next_token(cfg, variables, prompts):
    hidden = Decoder(cfg).apply(variables, prompts)[:, -1]
    return jnp.argmax(lm_logits(cfg, variables["params"], hidden), axis=-1)
