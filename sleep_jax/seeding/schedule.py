"""The learning rate of a night whose length is part of the optimizer's state, not of its program:
nights of different length share one program."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class NightScheduleState(NamedTuple):
    """Of `scale_by_night_schedule`; int32 scalars.

    Attributes:
      count: updates so far.
      warmup: updates until the peak rate is reached.
      steps: updates until the rate is a tenth of its peak, where it stays.
    """

    count: jax.Array
    warmup: jax.Array
    steps: jax.Array


def night_rate(count, peak: float, warmup, steps):
    """The learning rate of an update, as `optax.warmup_cosine_decay_schedule` from peak / (warmup +
    1) over the peak to a tenth of it, up to rounding.

    Args:
      count: number of the update, from 0.
      peak: rate after the warm-up.
      warmup, steps: of the night, in updates; arrays or numbers, warmup below steps.
    """
    first = peak / (warmup + 1)
    rising = first + (peak - first) * count / jnp.maximum(warmup, 1)
    done = jnp.clip((count - warmup) / (steps - warmup), 0, 1)
    falling = peak * (0.9 * 0.5 * (1 + jnp.cos(jnp.pi * done)) + 0.1)
    return jnp.where(count < warmup, rising, falling)


def scale_by_night_schedule(peak: float) -> optax.GradientTransformation:
    """Multiplies updates by the negative `night_rate`; `set_length` sets how long the night is."""

    def init(params) -> NightScheduleState:
        del params
        return NightScheduleState(*(jnp.int32(n) for n in (0, 0, 1)))

    def update(updates, state: NightScheduleState, params=None):
        del params
        rate = night_rate(state.count, peak, state.warmup, state.steps)
        updates = jax.tree.map(lambda x: jnp.asarray(-rate, x.dtype) * x, updates)
        return updates, state._replace(count=state.count + 1)

    return optax.GradientTransformation(init, update)


def set_length(opt_state, warmup: int, steps: int):
    """The state of an optimizer with `scale_by_night_schedule`, for a night of this length."""
    return optax.tree.set(opt_state, warmup=jnp.int32(warmup), steps=jnp.int32(steps))
