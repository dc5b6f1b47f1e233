"""Supervised fine-tuning: cross-entropy on replies to prompts, Adam.

    model = with_lora(model, LoraConfig(rank=32, alpha=64.0, targets=("q", "v")), rng)
    model = sft(model, Leaves("lora/.*"), document_pairs(prompts, documents), SFTConfig(), rng=rng)

Prompts are no labels. The trained part may as well be a memory slot, `MemorySlot(level, index)`, or
all weights, `Leaves("params/.*")`.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sleep_jax.baselines.finetune import Log, finetune
from sleep_jax.baselines.model import Model, Trainable
from sleep_jax.data.documents import Document
from sleep_jax.data.examples import Examples, PromptCompletion, make_examples
from sleep_jax.dreaming.adapters import init_lora
from sleep_jax.dreaming.trial import SCHEDULES
from sleep_jax.evals.likelihood import log_probs
from sleep_jax.interop.prompts import Prompts
from sleep_jax.models.decoder_config import LoraConfig
from sleep_jax.services import MidPhaseCheckpoint
from sleep_jax.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class SFTConfig(Settings, section="sft"):
    """How a model is fine-tuned. The defaults are SEAL's for 200 passages and their dreams."""

    epochs: int = setting(3, "passes over all pairs", least=1)
    learning_rate: float = setting(1e-3, "Adam's first rate", above=0)
    schedule: str = setting("linear", "how that rate goes on; others fall to 0", choices=SCHEDULES)
    batch_size: int = setting(8, "pairs of an update, in random order; 0: all", least=0)
    max_grad_norm: float = setting(0.0, "largest norm of the gradient; 0: any", least=0)
    accumulate: int = setting(
        1, "parts of an update; the activations of one exist at a time", least=1
    )

    def steps(self, pairs: int) -> int:
        """Updates of a run over this number of pairs."""
        return self.epochs * -(-pairs // (self.batch_size or pairs))


def with_lora(model: Model, lora: LoraConfig, rng: jax.Array) -> Model:
    """The model with a fresh adapter, which changes nothing yet."""
    cfg = dataclasses.replace(model.cfg, lora=lora)
    adapter = init_lora(cfg, model.variables["params"], rng)
    return model.replace(cfg=cfg, variables={**model.variables, "lora": adapter})


def document_pairs(prompts: Prompts, documents: Sequence[Document]) -> list[PromptCompletion]:
    """Each document as the reply to a request that names it: (prompt, reply) tokens."""
    return [(prompts.tell_about(x), prompts.reply(x.text)) for x in documents]


def sft(
    model: Model,
    trainable: Trainable,
    pairs: Sequence[PromptCompletion],
    config: SFTConfig,
    *,
    rng: jax.Array,
    log: Log = lambda step, figures: None,
    checkpoint: MidPhaseCheckpoint | None = None,
) -> Model:
    """Fine-tunes a part of a model on (prompt, reply) pairs, a row of a batch each.

    Args:
      model: where training starts.
      trainable: what is trained.
      pairs: token tuples (prompt, reply); only replies are labels.
      config: how.
      rng: PRNG key of the order of the pairs.
      log, checkpoint: as for `finetune`.

    Raises:
      ValueError: there is nothing to learn.
    """
    pairs = [pair for pair in pairs if pair[1]]
    if not pairs:
        raise ValueError("no pair to learn from has a reply; give documents with text")
    rows = jax.tree.map(lambda x: x[0], make_examples([pairs], is_packed=False))
    steps = config.steps(len(pairs))
    return finetune(
        model,
        trainable,
        cross_entropy,
        epochs(rows, config.epochs, config.batch_size, rng),
        _optimizer(config, steps),
        steps=steps,
        accumulate=config.accumulate,
        log=log,
        checkpoint=checkpoint,
    )


def cross_entropy(model: Model, batch: Examples, rng: jax.Array):
    """(sum in nats, tokens) of the negative log-likelihood of the labels of [rows, time]."""
    nats = log_probs(model.cfg, model.variables, batch)
    return -nats.sum(), batch.mask[..., 1:].sum()


def epochs(rows: Examples, count: int, batch_size: int, rng: jax.Array) -> Iterator[Examples]:
    """Batches of `batch_size` rows, each epoch in an order of its own (that of `dreaming.trial`);
    the last one of an epoch is filled up with rows without a label.

    Args:
      rows: [rows, time].
      count: of epochs.
      batch_size: 0, or at least as many as there are: all of them, in the order given.
      rng: PRNG key.
    """
    total = len(rows.tokens)
    batch_size = batch_size or total
    padding = -total % batch_size
    padded = jax.tree.map(lambda x: np.pad(x, ((0, padding), (0, 0))), rows)
    for epoch in range(count):
        order = np.arange(total + padding)
        if batch_size < total:
            order[:total] = _order(jax.random.fold_in(jax.random.fold_in(rng, 0), epoch), total)
        for start in range(0, total, batch_size):
            chosen = order[start : start + batch_size]
            yield jax.tree.map(lambda x, chosen=chosen: x[chosen], padded)


def _order(key: jax.Array, count: int) -> np.ndarray:
    """A random order of rows, int [count]; how many there are does not change the draws."""
    noise = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row)))
    return np.asarray(jnp.argsort(noise(jnp.arange(count))))


@functools.cache  # one object a setting: for any other, all is compiled anew
def _optimizer(config: SFTConfig, steps: int) -> optax.GradientTransformation:
    def rate(step):
        return config.learning_rate * SCHEDULES[config.schedule](step / steps)

    clipping = [optax.clip_by_global_norm(config.max_grad_norm)] if config.max_grad_norm else []
    return optax.chain(*clipping, optax.adam(rate))
