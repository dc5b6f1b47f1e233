"""A second mixer, to prove the interface: linear attention with a decayed state, token by token.

    S_t = a_t S_{t-1} + k_t v_t^T,    y_t = q_t S_t,    S_0 a parameter

per head, with a_t = sigmoid(SLOW + w x_t) (Yang et al. 2024, arXiv 2312.06635, but one decay
for a head). Its state does not grow with the context.
"""

from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sleep_jax.models.linear import Linear
from sleep_jax.models.mixer import HEADS, MIXERS, ROWS, SHARED_PREFIX, Axes, Mixer, register_mixer

SLOW = 5.0  # a = 0.993, so that a document is still there after the prompt that follows it


class RecurrencePlan(NamedTuple):
    """What all layers need to know of each token, bool [batch, time].

    Attributes:
      is_token: not padding.
      is_first: the first token of its segment.
      continues: its segment continues a shared prefix.
      is_prefix: part of the shared prefix.
    """

    is_token: jax.Array
    is_first: jax.Array
    continues: jax.Array
    is_prefix: jax.Array


class Recurrence(Mixer):
    """Progress: the segment read last, and whether there was a prefix.

    State: S, and S at the end of the prefix.
    """

    progress_axes: ClassVar[Axes] = {"segment": (ROWS,), "has_prefix": (ROWS,)}
    state_axes: ClassVar[Axes] = {
        "matrix": (ROWS, HEADS, None, None),
        "prefix": (ROWS, HEADS, None, None),
    }
    sharding_rules = ((r"params/.*/recurrence/initial", ("tensor", None, None)),)

    @nn.compact
    def __call__(self, x, plan: RecurrencePlan):
        cfg, (b, t, _) = self.cfg, x.shape
        heads, h = cfg.heads, cfg.head_dim
        q, k, v = (
            Linear(cfg, heads * h, name=name)(x).reshape(b, t, heads, h) for name in ("q", "k", "v")
        )
        k = k / jnp.linalg.norm(k, axis=-1, keepdims=True)
        decay = jax.nn.sigmoid(SLOW + Linear(cfg, heads, name="gate")(x))
        initial = self.param("initial", nn.initializers.normal(0.1), (heads, h, h))

        def step(state, token):
            matrix, prefix = state
            q, k, v, decay, *flags = token
            is_token, is_first, continues, is_prefix = (f[:, None, None, None] for f in flags)
            start = jnp.where(continues, prefix, initial)
            before = jnp.where(is_first, start, matrix)
            after = decay[..., None, None] * before + k[..., :, None] * v[..., None, :]
            state = jnp.where(is_token, after, matrix), jnp.where(is_prefix, after, prefix)
            return state, jnp.einsum("bhk,bhkv->bhv", q, after)

        def time_first(a):
            return a.swapaxes(0, 1)

        state = tuple(self.init_state(cfg, b, t).values())
        has_cache = self.has_variable("cache", "matrix")
        if has_cache:
            cached = [self.variable("cache", name) for name in ("matrix", "prefix")]
            state = tuple(variable.value for variable in cached)
        tokens = jax.tree.map(time_first, (q, k, v, decay, *plan))
        state, y = jax.lax.scan(step, state, tokens)
        if has_cache:
            for variable, value in zip(cached, state):
                variable.value = value
        return Linear(cfg, cfg.width, name="o")(time_first(y).reshape(b, t, heads * h))

    @staticmethod
    def init_progress(cfg, rows, capacity):
        return {"segment": jnp.zeros(rows, jnp.int32), "has_prefix": jnp.zeros(rows, bool)}

    @staticmethod
    def init_state(cfg, rows, capacity, stack=()):
        shape = (*stack, rows, cfg.heads, cfg.head_dim, cfg.head_dim)
        return {name: jnp.zeros(shape) for name in ("matrix", "prefix")}

    @staticmethod
    def plan(cfg, segment_ids, progress):
        has_cache = progress is not None
        progress = progress or Recurrence.init_progress(cfg, len(segment_ids), 0)
        # The segment of the last token up to each one, and whether there was a prefix by then.
        seen = jnp.concatenate([progress["segment"][:, None], segment_ids], axis=1)
        seen = jax.lax.associative_scan(lambda a, b: jnp.where(b != 0, b, a), seen, axis=1)
        is_prefix = segment_ids == SHARED_PREFIX
        has_prefix = jnp.concatenate([progress["has_prefix"][:, None], is_prefix], axis=1)
        has_prefix = jax.lax.associative_scan(jnp.logical_or, has_prefix, axis=1)
        is_token = segment_ids != 0
        is_first = is_token & (segment_ids != seen[:, :-1])
        continues = has_prefix[:, :-1] & (segment_ids > 0)
        after = {"segment": seen[:, -1], "has_prefix": has_prefix[:, -1]}
        plan = RecurrencePlan(is_token, is_first, continues, is_prefix)
        return plan, after if has_cache else None

    @staticmethod
    def reset(progress, is_new):
        return {name: jnp.where(is_new, jnp.zeros_like(x), x) for name, x in progress.items()}

    @staticmethod
    def flops(cfg, context):
        units = cfg.heads * cfg.head_dim
        return 2 * (4 * cfg.width * units + cfg.width * cfg.heads + 3 * units * cfg.head_dim)


if "recurrence" not in MIXERS:
    register_mixer("recurrence", Recurrence)
