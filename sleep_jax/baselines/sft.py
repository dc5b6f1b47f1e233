"""Supervised fine-tuning: cross-entropy on replies to prompts, Adam.

    model = fine_tuned(model, document_pairs(prompts, documents), SFTConfig(), rng=rng)
    model = fine_tuned(model, text_pairs(prompts, documents), FULL, lora=None, rng=rng)
    model = sft(model, MemorySlot(level, index), written_pairs(exchanges), config, rng=rng)

LoRA (Hu et al. 2021, arXiv 2106.09685) as SEAL's continued pre-training has it (Zweiger et al.
2025, arXiv 2506.10943), all weights as SDFT compares itself with (Shenfeld et al. 2026, arXiv
2601.19897). What is learnt may be the text as it is, the text as a reply, or what a model wrote
about it. Prompts are no labels. With old examples among the pairs it is replay (`replay.py`).
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sleep_jax.baselines.finetune import Log, Loss, finetune
from sleep_jax.baselines.model import Leaves, Model, Trainable
from sleep_jax.data.documents import Document
from sleep_jax.data.examples import Examples, PromptCompletion, make_examples
from sleep_jax.dreaming.adapters import init_lora
from sleep_jax.dreaming.trial import SCHEDULES
from sleep_jax.evals.likelihood import log_probs, log_probs_with_head
from sleep_jax.interop.prompts import Prompts
from sleep_jax.models.decoder_config import LoraConfig
from sleep_jax.seeding.sequences import Exchange
from sleep_jax.services import MidPhaseCheckpoint
from sleep_jax.settings import Settings, setting

SEAL_LORA = LoraConfig(rank=32, alpha=64.0, targets=("q", "v"))


@dataclasses.dataclass(frozen=True)
class SFTConfig(Settings, section="sft"):
    """How a model is fine-tuned. The defaults are SEAL's for 200 passages and their dreams."""

    epochs: int = setting(3, "passes over all pairs, unless sft.steps decides", least=1)
    steps: int = setting(0, "updates, the last pass cut short or as many as needed; 0: epochs",
                         least=0)  # fmt: skip
    learning_rate: float = setting(1e-3, "Adam's first rate", above=0)
    schedule: str = setting("linear", "how that rate goes on; others fall to 0", choices=SCHEDULES)
    batch_size: int = setting(8, "pairs of an update, in random order; 0: all", least=0)
    max_grad_norm: float = setting(0.0, "largest norm of the gradient; 0: any", least=0)
    accumulate: int = setting(
        1, "parts of an update; the activations of one exist at a time", least=1
    )

    def updates(self, pairs: int) -> int:
        """Updates of a run over this number of pairs."""
        return self.steps or self.epochs * self._updates_of_epoch(pairs)

    def passes(self, pairs: int) -> int:
        """Passes over this number of pairs, the last one maybe cut short."""
        return -(-self.updates(pairs) // self._updates_of_epoch(pairs))

    def _updates_of_epoch(self, pairs: int) -> int:
        return -(-pairs // (self.batch_size or pairs))


# All weights, as SDFT's authors fine-tune on a text: they tried rates from 5e-6 to 5e-5.
FULL = SFTConfig(epochs=4, learning_rate=1e-5, schedule="cosine", max_grad_norm=1.0)


def with_lora(model: Model, lora: LoraConfig, rng: jax.Array) -> Model:
    """The model with a fresh adapter, which changes nothing yet."""
    cfg = dataclasses.replace(model.cfg, lora=lora)
    adapter = init_lora(cfg, model.variables["params"], rng)
    return model.replace(cfg=cfg, variables={**model.variables, "lora": adapter})


def text_pairs(prompts: Prompts, documents: Sequence[Document]) -> list[PromptCompletion]:
    """Each document outside any chat, as in continued pre-training: all tokens but the first are
    labels."""
    texts = map(prompts.plain_document, documents)
    return [(tokens[:1], tokens[1:]) for tokens in texts]


def document_pairs(prompts: Prompts, documents: Sequence[Document]) -> list[PromptCompletion]:
    """Each document as the reply to a request that names it: (prompt, reply) tokens."""
    return [(prompts.tell_about(x), prompts.reply(x.text)) for x in documents]


def written_pairs(exchanges: Sequence[Exchange]) -> list[PromptCompletion]:
    """What a night learns from, closed book: the student's prompts and what was written to them."""
    return [(e.student, e.completion) for e in exchanges]


def fine_tuned(
    model: Model,
    pairs: Sequence[PromptCompletion],
    config: SFTConfig = SFTConfig(),
    *,
    lora: LoraConfig | None = SEAL_LORA,
    rng: jax.Array,
    loss: Loss | None = None,
    log: Log = lambda step, figures: None,
    checkpoint: MidPhaseCheckpoint | None = None,
) -> Model:
    """Fine-tunes a LoRA adapter or all weights of a model.

    Args:
      model: where training starts; with an adapter, that goes on.
      pairs, config, loss, log, checkpoint: as for `sft`.
      lora: the adapter; None: all weights.
      rng: PRNG key of a new adapter and of the order of the pairs.

    Raises:
      ValueError: there is nothing to learn, or the model has another adapter.
    """
    options = {"rng": rng, "loss": loss, "log": log, "checkpoint": checkpoint}
    has_adapter = "lora" in model.variables
    if has_adapter and model.cfg.lora != lora:
        raise ValueError(
            f"the model has an adapter of {model.cfg.lora}, lora={lora}; give the same to go on "
            "with it, or a model without"
        )
    if lora is None:
        return sft(model, Leaves("params/.*"), pairs, config, **options)
    if not has_adapter:
        model = with_lora(model, lora, jax.random.fold_in(rng, 1))
    return sft(model, Leaves("lora/.*"), pairs, config, **options)


def sft(
    model: Model,
    trainable: Trainable,
    pairs: Sequence[PromptCompletion],
    config: SFTConfig,
    *,
    rng: jax.Array,
    loss: Loss | None = None,
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
      loss: as for `finetune`, of batches of `Examples` [rows, time]; None: `cross_entropy_for`.
      log, checkpoint: as for `finetune`.

    Raises:
      ValueError: there is nothing to learn.
    """
    rows = rows_of(pairs)
    count = len(rows.tokens)
    steps = config.updates(count)
    return finetune(
        model,
        trainable,
        loss or cross_entropy_for(model, trainable),
        epochs(rows, config.passes(count), config.batch_size, rng),
        _optimizer(config, steps),
        steps=steps,
        accumulate=config.accumulate,
        log=log,
        checkpoint=checkpoint,
    )


def rows_of(pairs: Sequence[PromptCompletion]) -> Examples:
    """A row for each pair that has a reply, [rows, time].

    Raises:
      ValueError: none has.
    """
    pairs = [pair for pair in pairs if pair[1]]
    if not pairs:
        raise ValueError("no pair to learn from has a reply; give documents with text")
    return jax.tree.map(lambda x: x[0], make_examples([pairs], is_packed=False))


def cross_entropy(model: Model, batch: Examples, rng: jax.Array):
    """(sum in nats, tokens) of the negative log-likelihood of the labels of [rows, time]. The LM
    head gets no gradient."""
    nats = log_probs(model.cfg, model.variables, batch)
    return -nats.sum(), batch.mask[..., 1:].sum()


def cross_entropy_with_head(model: Model, batch: Examples, rng: jax.Array):
    """`cross_entropy` whose gradient reaches the LM head, too, at the cost of one more product with
    it."""
    nats = log_probs_with_head(model.cfg, model.variables, batch)
    return -nats.sum(), batch.mask[..., 1:].sum()


def cross_entropy_for(model: Model, trainable: Trainable) -> Loss:
    """The cross-entropy whose gradient reaches all that is trained."""
    return cross_entropy_with_head if trains_base(model, trainable) else cross_entropy


def trains_base(model: Model, trainable: Trainable) -> bool:
    """Whether weights of the base are trained, of which the LM head may be one."""
    return "params" in trainable.split(model.variables)[0]


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
