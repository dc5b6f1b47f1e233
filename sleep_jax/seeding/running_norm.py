"""Clipping of gradients by the norms of earlier ones, where a fixed limit would not bind: the norms
of a night differ by two orders of magnitude, and jump where rollouts join.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

DECAY = 0.9  # of the running mean: it forgets within some ten updates


class RunningNorm(NamedTuple):
    """Running mean of the norms of gradients, float32 scalar; 0 before the first."""

    mean: jax.Array


def clip_by_running_norm(ratio: float, decay: float = DECAY) -> optax.GradientTransformation:
    """Scales gradients whose norm exceeds `ratio` times the running mean down to that norm.

        limit_t = ratio * mean_{t-1}
        mean_t  = decay * mean_{t-1} + (1 - decay) * norm_t

    AdaGC (Wang et al. 2025, arXiv 2502.11034) with one norm for the whole gradient, and with the
    mean of norms before clipping, as the first gradients of a slot, whose `down` is 0, are by far
    the smallest: means of clipped norms, which rise by at most 1 + (1 - decay) * (ratio - 1) an
    update, would stay behind for a night. The first gradient is not clipped. A gradient of 0 says
    nothing of the others and leaves the mean as it was.

    Args:
      ratio: above 1.
      decay: in [0, 1).
    """

    def init(params):
        del params
        return RunningNorm(jnp.zeros((), jnp.float32))

    def update(grads, state, params=None):
        del params
        norm = optax.tree.norm(grads).astype(jnp.float32)
        is_first = state.mean == 0
        limit = jnp.where(is_first, jnp.inf, ratio * state.mean)
        scale = jnp.where(norm > limit, limit / norm, 1.0)
        grads = jax.tree.map(lambda x: (x * scale).astype(x.dtype), grads)
        mean = jnp.where(is_first, norm, decay * state.mean + (1 - decay) * norm)
        return grads, RunningNorm(jnp.where(norm == 0, state.mean, mean))

    return optax.GradientTransformation(init, update)
