"""Elastic weight consolidation: what earlier tasks needed may not move far.

    loss = cross-entropy + strength / 2 * sum_i F_i (theta_i - theta*_i)^2

F is the diagonal of the Fisher information, theta* where the last task ended (Kirkpatrick et al.
2017, arXiv 1612.00796, Eq. 3). Online EWC keeps one of each, whatever the number of tasks: after a
task F <- decay * F + F_task (Schwarz et al. 2018, arXiv 1805.06370, Eq. 9).

    memory = None
    for pairs in tasks:
        loss = ewc_loss(model, trainable, memory, config)
        model = sft(model, trainable, pairs, sft_config, rng=rng, loss=loss)
        memory = remember(model, trainable, pairs, memory, config, rng=rng)

F is that of the mean loss of a token. Labels are sampled from the model, as F's definition has it,
and not those of the data (van de Ven 2025, arXiv 2502.11756). Given what precedes it, the score of
a sampled label has mean 0, so that the square of a sequence's summed gradient has the sum of the
squares of its tokens' as its mean: one backward pass a sequence is enough.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from sleep_jax.baselines.finetune import Loss
from sleep_jax.baselines.model import Model, Trainable
from sleep_jax.baselines.sft import cross_entropy_for, rows_of
from sleep_jax.data.examples import Examples, PromptCompletion
from sleep_jax.data.orders import numpy_generator
from sleep_jax.models.decoder import Decoder, lm_logits
from sleep_jax.settings import Settings, setting

SampledScore = Callable[[Model, Any, jax.Array], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class EWCConfig(Settings, section="ewc"):
    """How strongly the past holds. `strength` and `samples` are those of the Atari games of
    Kirkpatrick et al.; the best strength differs by orders of magnitude from model to model: try
    powers of ten. With `decay` 1 no task is forgotten; a smaller one forgets the oldest first.
    """

    strength: float = setting(400.0, "lambda, the weight of the penalty", least=0)
    decay: float = setting(
        1.0, "gamma, what is left of the Fisher information after a task", least=0, most=1
    )
    samples: int = setting(
        100, "sequences that the Fisher information of a task is computed from; 0: all", least=0
    )


@flax.struct.dataclass
class Consolidated:
    """What is kept of all tasks so far: twice the size of what is trained.

    Attributes:
      anchor: theta*, the trained leaves after the last task.
      fisher: float32, of the same form.
    """

    anchor: Any
    fisher: Any


def ewc_loss(
    model: Model, trainable: Trainable, memory: Consolidated | None, config: EWCConfig
) -> Loss:
    """The loss of the next task, for `sft`; before the first one the cross-entropy alone."""
    base = cross_entropy_for(model, trainable)
    if memory is None:
        return base
    return penalised_loss(base, trainable, memory, config.strength)


def penalised_loss(base: Loss, trainable: Trainable, memory: Consolidated, strength: float) -> Loss:
    """A loss and the penalty; logs the latter as `penalty`."""
    return jax.tree_util.Partial(_with_penalty(base), trainable, memory, strength)


@functools.cache  # one object a loss: for any other, all is compiled anew
def _with_penalty(base: Loss) -> Loss:
    def loss(trainable, memory, strength, model, batch, rng):
        total, count, *more = base(model, batch, rng)
        penalty = strength * penalty_of(trainable.split(model.variables)[0], memory)
        terms = {"penalty": (penalty, 1.0), **(more[0] if more else {})}
        return total + penalty * count, count, terms

    return loss


def penalty_of(trained, memory: Consolidated) -> jax.Array:
    """sum_i F_i (theta_i - theta*_i)^2 / 2, float32."""
    parts = jax.tree.map(
        lambda x, anchor, f: jnp.sum(f * jnp.square(x.astype(jnp.float32) - anchor)),
        trained,
        memory.anchor,
        memory.fisher,
    )
    return sum(jax.tree.leaves(parts)) / 2


def remember(
    model: Model,
    trainable: Trainable,
    pairs: Sequence[PromptCompletion],
    memory: Consolidated | None,
    config: EWCConfig,
    *,
    rng: jax.Array,
) -> Consolidated:
    """What is kept after a task.

    Args:
      model: after it.
      trainable: what is trained in all tasks.
      pairs: of the task.
      memory: of the tasks before; None: it was the first.
      config: how.
      rng: PRNG key of the sequences and of their labels.
    """
    rows = rows_of(pairs)
    order = numpy_generator(rng).permutation(len(rows.tokens))[: config.samples or None]
    chosen = jax.tree.map(lambda x: x[order], rows)
    fisher = diagonal_fisher(model, trainable, chosen, jax.random.fold_in(rng, 1))
    anchor = jax.tree.map(lambda x: jnp.array(x, jnp.float32), trainable.split(model.variables)[0])
    if memory is not None:
        fisher = jax.tree.map(lambda old, new: config.decay * old + new, memory.fisher, fisher)
    return Consolidated(anchor, fisher)


def sampled_score(model: Model, row: Examples, rng: jax.Array):
    """(sum in nats, tokens) of the log-likelihood of labels that the model itself samples in the
    place of those of one row, each after the row's own tokens before it."""
    rows = jax.tree.map(lambda x: x[None], row)
    hidden = Decoder(model.cfg).apply(model.variables, rows.tokens, rows.segment_ids)
    log_p = jax.nn.log_softmax(lm_logits(model.cfg, model.variables["params"], hidden[0, :-1]))
    labels = jax.random.categorical(rng, jax.lax.stop_gradient(log_p))
    chosen = jnp.take_along_axis(log_p, labels[:, None], -1)[:, 0]
    is_scored = row.mask[1:]
    return jnp.sum(jnp.where(is_scored, chosen, 0.0)), jnp.sum(is_scored)


@functools.partial(jax.jit, static_argnames=("score",))
def diagonal_fisher(
    model: Model,
    trainable: Trainable,
    rows: Any,
    rng: jax.Array,
    score: SampledScore = sampled_score,
):
    """The diagonal of the Fisher information of a label, of what is trained, by one sample.

    Args:
      model: whose weights.
      trainable: which of them.
      rows: a pytree with a leading axis of independent rows.
      rng: PRNG key.
      score: (model, row, rng) -> (log-likelihood of sampled labels, their number).

    Returns:
      float32, of the form of what is trained: squared gradients, summed over rows, a label.
    """
    trained, frozen = trainable.split(model.variables)

    def add(carry, row_and_key):
        def row_score(trained):
            variables = trainable.merge(trained, frozen)
            return score(model.replace(variables=variables), *row_and_key)

        gradient, count = jax.grad(row_score, has_aux=True)(trained)
        squares, total = carry
        squares = jax.tree.map(
            lambda s, g: s + jnp.square(g.astype(jnp.float32)), squares, gradient
        )
        return (squares, total + count), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), trained)
    keys = jax.random.split(rng, len(jax.tree.leaves(rows)[0]))
    start = (zeros, jnp.zeros((), jnp.float32))
    (squares, total), _ = jax.lax.scan(add, start, (rows, keys))
    return jax.tree.map(lambda s: s / jnp.maximum(total, 1.0), squares)
