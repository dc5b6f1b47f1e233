"""The attention mixer: grouped-query attention with rotary positions over a KV cache.

Its state holds keys as [batch, kv, head_dim, capacity] and values as [batch, kv, capacity,
head_dim], so both products of a decode step are plain batched matrix products; its progress holds
the segment of every cached token, and their number.
"""

import math
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sleep_jax.models.attend import ATTENDED, attend, attend_one
from sleep_jax.models.attend_in_blocks import Segments, attend_in_blocks, fits, num_visible
from sleep_jax.models.decode_layout import by_rows, is_decoding
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.linear import Linear, RMSNorm
from sleep_jax.models.mixer import CAPACITY, HEADS, ROWS, Axes, Mixer


def rope_frequencies(cfg: DecoderConfig):
    """Inverse frequencies [head_dim / 2] of the rotary embedding, with Llama 3 scaling where
    set.
    """
    exponent = jnp.arange(0, cfg.head_dim, 2, dtype=jnp.float32) / cfg.head_dim
    inverse = 1.0 / cfg.rope_theta**exponent
    if cfg.rope_scaling is None:
        return inverse
    s = cfg.rope_scaling
    wavelength = 2 * math.pi / inverse
    # 1 keeps a frequency (short wavelengths), 0 divides it by the factor (long ones).
    keep = (s.original_max_position / wavelength - s.low_freq_factor) / (
        s.high_freq_factor - s.low_freq_factor
    )
    keep = jnp.clip(keep, 0.0, 1.0)
    return inverse * (keep + (1 - keep) / s.factor)


def rotate(x, positions, frequencies):
    """Rotary embedding: rotates the pairs (x_i, x_{i + h/2}) of [batch, time, heads, h] by
    position.
    """
    angle = positions[:, :, None, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    low, high = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


class AttentionPlan(NamedTuple):
    """What all layers need to know of a call.

    Attributes:
      positions: rotary positions of the tokens, int32 [batch, time].
      visible: which keys a query sees: bool [batch, time, keys], or, where queries are taken in
        blocks, what says so of each block.
      index: where in the state this call's keys go, int32 []; 0 without a cache.
    """

    positions: jax.Array
    visible: jax.Array | Segments
    index: jax.Array | int


class Attention(Mixer):
    """Causal self-attention; see `Mixer` for the interface."""

    progress_axes: ClassVar[Axes] = {"index": (), "segment_ids": (ROWS, CAPACITY)}
    state_axes: ClassVar[Axes] = {
        "key": (ROWS, HEADS, None, CAPACITY),
        "value": (ROWS, HEADS, CAPACITY, None),
    }
    saved_names = (ATTENDED,)

    @nn.compact
    def __call__(self, x, plan: AttentionPlan):
        """Attends: [batch, time, d] to float32 [batch, time, d]."""
        cfg = self.cfg
        b, t, _ = x.shape
        h, k = cfg.head_dim, cfg.kv_heads
        group = cfg.heads // k

        def project(name, heads):
            y = Linear(cfg, heads * h, use_bias=cfg.attention_bias, name=name)(x)
            return y.reshape(b, t, heads, h)

        q, key, value = project("q", cfg.heads), project("k", k), project("v", k)
        if is_decoding(x):
            q, key, value = map(by_rows, (q, key, value))
        if cfg.qk_norm:
            q = RMSNorm(cfg.norm_eps, name="q_norm")(q)
            key = RMSNorm(cfg.norm_eps, name="k_norm")(key)
        frequencies = rope_frequencies(cfg)
        q = rotate(q, plan.positions, frequencies) / math.sqrt(h)
        key = rotate(key, plan.positions, frequencies).transpose(0, 2, 3, 1).astype(cfg.dtype)
        value = value.transpose(0, 2, 1, 3).astype(cfg.dtype)

        # The query heads of a group share their keys: fold them into the time axis.
        q = q.reshape(b, t, k, group, h).transpose(0, 2, 3, 1, 4).reshape(b, k, group * t, h)
        if self.has_variable("cache", "key") and not self.is_mutable_collection("cache"):
            out = self._attend_appended(q, key, value, plan)
        else:
            key, value = self._with_cached(key, value, plan.index)
            attended = attend_in_blocks if isinstance(plan.visible, Segments) else attend
            out = attended(q, key, value, plan.visible, plan.index)
        out = out.reshape(b, k, group, t, h)
        out = out.transpose(0, 3, 1, 2, 4).reshape(b, t, cfg.heads * h)
        if is_decoding(x):
            out = by_rows(out.astype(cfg.dtype))
        return Linear(cfg, cfg.width, name="o")(out)

    def _with_cached(self, key, value, index):
        """The keys and values that queries see: with a cache, all of its state after those of this
        call were written into it.
        """
        if not self.has_variable("cache", "key"):
            return key, value
        keys, values = self.variable("cache", "key"), self.variable("cache", "value")
        keys.value = jax.lax.dynamic_update_slice(keys.value, key, (0, 0, 0, index))
        values.value = jax.lax.dynamic_update_slice(values.value, value, (0, 0, index, 0))
        return keys.value, values.value

    def _attend_appended(self, q, key, value, plan: AttentionPlan):
        """Attends with one token a row, beside a cache that stays as it is."""
        self.variable("appended", "key", lambda: key).value = key
        self.variable("appended", "value", lambda: value).value = value
        cached = [self.get_variable("cache", name) for name in ("key", "value")]
        before = plan.visible & (jnp.arange(plan.visible.shape[-1]) < plan.index)
        return attend_one(q, cached, (key, value), before)

    @staticmethod
    def init_progress(cfg: DecoderConfig, rows: int, capacity: int) -> dict:
        """No token yet."""
        return {
            "index": jnp.zeros((), jnp.int32),
            "segment_ids": jnp.zeros((rows, capacity), jnp.int32),
        }

    @staticmethod
    def init_state(
        cfg: DecoderConfig, rows: int, capacity: int, stack: tuple[int, ...] = ()
    ) -> dict:
        """Room for the keys and values of `capacity` tokens."""
        shape = (*stack, rows, cfg.kv_heads)
        return {
            "key": jnp.zeros((*shape, cfg.head_dim, capacity), cfg.dtype),
            "value": jnp.zeros((*shape, capacity, cfg.head_dim), cfg.dtype),
        }

    @staticmethod
    def plan(cfg: DecoderConfig, segment_ids, progress: dict | None):
        """The plan: a token sees the keys of its segment, and of the prefix where its segment
        continues it, up to its own; its position is the number of keys before its own.
        """
        start, keys = 0, segment_ids
        if progress is not None:
            start = progress["index"]
            end = start + segment_ids.shape[1]
            keys = jax.lax.dynamic_update_slice(progress["segment_ids"], segment_ids, (0, start))
            progress = {"index": end, "segment_ids": keys}
        segments = Segments.of_call(segment_ids, keys, start)
        if fits(cfg, *segment_ids.shape, keys.shape[1]):
            visible = segments.mask()
            return AttentionPlan(visible.sum(-1) - 1, visible, start), progress
        return AttentionPlan(num_visible(cfg, segments) - 1, segments, start), progress

    @staticmethod
    def reset(progress: dict, is_new) -> dict:
        """Segment 0 everywhere hides the old keys; the next call writes over them."""
        return {name: jnp.where(is_new, 0, x) for name, x in progress.items()}

    @staticmethod
    def is_full(progress: dict, tokens: int):
        """Whether `tokens` more keys do not fit."""
        return progress["index"] + tokens > progress["segment_ids"].shape[1]

    @staticmethod
    def flops(cfg: DecoderConfig, context: float) -> float:
        """Of the four projections, the scores and the weighted values."""
        projections = cfg.width * cfg.head_dim * (2 * cfg.heads + 2 * cfg.kv_heads)
        return 2 * (projections + 2 * context * cfg.heads * cfg.head_dim)
