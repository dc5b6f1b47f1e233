"""What the updates of a night can do to the divergence to first order, known before the first.

A slot is born with B = 0, so that of its weights `down` alone has a gradient g. An update of Adam
moves every entry by about the learning rate eta_t, against the gradient's sign at most. To first
order the updates of a night then lower a divergence D by no more than

    sum_t eta_t * |g|_1

which is reached if every update follows sign(g). The rate at which this is D itself is

    eta* = D / (sum_t eta_t / eta * |g|_1),    eta the peak of the schedule.

Later terms can add to it: once B is not 0, A learns as well, and g grows. A night of a tiny
decoder (experiments/rate_and_width) had 0.24 D to first order and removed 0.99 D. So a night is
refused only if ten times its first-order fall is less than what its gate asks.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from sleep_jax.errors import UnrecoverableError
from sleep_jax.memory.slots import take_slot
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import place
from sleep_jax.seeding.gate import Gate
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import (
    Exchange,
    HiddenStates,
    Teacher,
    batches,
    teacher_heads,
)
from sleep_jax.seeding.step import SeedingState, init_state, seeding_step

LEAST_SHARE = 0.1  # of what the gate asks: a night that can do less is not begun
GRADIENT = optax.trace(decay=0.0)  # an optimizer whose state is the gradient


class OutOfReach(UnrecoverableError):
    """The updates of a night cannot change the student as much as the gate asks."""


@dataclasses.dataclass(frozen=True)
class FirstOrderBound:
    """What the updates of a night can do at most, to first order.

    Attributes:
      divergence: from the teacher before the night, in nats a token.
      gradient_norm: |g|_1, of the divergence with respect to the slot.
      distance: sum of the learning rates of all updates.
    """

    divergence: float
    gradient_norm: float
    distance: float

    @property
    def share(self) -> float:
        """Of the divergence, that the night can remove; above 1 where the rate is ample."""
        return self.distance * self.gradient_norm / self.divergence


def check_reach(
    bound: FirstOrderBound, seeding: SeedingConfig, gate: Gate, automatic: float
) -> None:
    """Refuses a night that cannot pass its gate.

    Args:
      bound: of the night.
      seeding, gate: its settings; the learning rate is a number.
      automatic: `automatic_rate` of the slot.

    Raises:
      OutOfReach: the bound is below a tenth of what the gate asks.
    """
    asked, rate = 1 - gate.divergence, seeding.learning_rate
    if bound.share >= LEAST_SHARE * asked:
        return
    enough = rate * asked / bound.share if bound.share else math.inf
    if automatic >= LEAST_SHARE * enough and automatic != rate:
        remedy = f"set seeding.learning_rate='auto' ({automatic:.2g} here)"
    elif math.isfinite(enough):
        remedy = f"set seeding.learning_rate={enough:.2g}, or raise seeding.steps"
    else:
        remedy = "the slot has no gradient: no token passes through it"
    raise OutOfReach(
        f"seeding.learning_rate={rate:.3g} over {seeding.steps} updates can lower the divergence "
        f"from the teacher by {bound.share:.2%} to first order, and gate.divergence="
        f"{gate.divergence:g} asks for {asked:.0%}; {remedy}, or accept any night with "
        "gate.divergence=inf"
    )


def init_gradient(memory, level: int, index) -> SeedingState:
    """The state from which `seeding_step` with `GRADIENT` finds the gradient of a slot."""
    return init_state(take_slot(memory, level, index), GRADIENT)


def divergence_alone(seeding: SeedingConfig, weights: tuple[float, ...] = (1.0,)) -> Objective:
    """The objective that `consolidate.mean_divergence` measures, in as many parts as an update."""
    return Objective(alpha=1.0, lam=0.0, weights=weights, accumulate=seeding.objective.accumulate)


def first_gradient(
    cfg: DecoderConfig,
    variables,
    level: int,
    index: int,
    exchanges: Sequence[Exchange],
    states: Sequence[HiddenStates],
    teachers: Sequence[Teacher],
    seeding: SeedingConfig,
):
    """The gradient of `consolidate.mean_divergence` with respect to a slot.

    Args:
      cfg, variables: the student.
      level, index: the slot.
      exchanges, states, teachers: as for `mean_divergence`.
      seeding: gives the shape of the batches and their parts.

    Returns:
      A pytree like the slot.
    """
    objective = divergence_alone(seeding, tuple(t.weight for t in teachers))
    heads = teacher_heads(teachers)
    total, count = None, 0.0
    for _, batch in batches(exchanges, states, seeding.shape):
        state = place(init_gradient(variables["memory"], level, index), "learner")
        state, metrics = seeding_step(
            cfg, objective, GRADIENT, level, jnp.int32(index), state, variables, batch, heads
        )
        tokens = metrics["tokens_off"]
        gradient = jax.tree.map(lambda g, n=tokens: n * g, state.opt_state.trace)
        total = gradient if total is None else jax.tree.map(jnp.add, total, gradient)
        count += float(tokens)
    return jax.tree.map(lambda g: g / max(count, 1.0), total)
