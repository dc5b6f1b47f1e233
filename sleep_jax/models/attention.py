"""Grouped-query attention with rotary positions, over packed segments or over a KV cache.

Keys are kept as [batch, kv, head_dim, time] and values as [batch, kv, time, head_dim], so both
products of a decode step are plain batched matrix products.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.linear import Linear, RMSNorm, product
from sleep_jax.models.sharding import row_shards

MASKED = -1e30  # finite, so a row that may attend to nothing stays free of NaN
MAPPED = 64  # queries from which on a CPU attends row by row
ATTENDED = "attended"  # checkpoint name of what the backward pass of attention needs


def rope_frequencies(cfg: DecoderConfig):
    """Inverse frequencies [head_dim / 2] of the rotary embedding, with Llama 3 scaling where
    set."""
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
    position."""
    angle = positions[:, :, None, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    low, high = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


@jax.custom_vjp
def attend(q, key, value, mask, start=0):
    """softmax(q key) value, over the keys that the mask shows.

    The backward pass computes the weights anew from the largest score and the normaliser of each
    query: nothing of [time, keys] outlives the call (Dao et al. 2022, arXiv 2205.14135). Only the
    queries' own keys and values get a gradient; those cached before them are constants.

    Args:
      q: scaled queries [batch, kv, group * time, h].
      key: [batch, kv, h, keys]; its dtype is the operand dtype.
      value: [batch, kv, keys, h].
      mask: bool [batch, time, keys].
      start: which of the keys is the first query's own.

    Returns:
      float32 [batch, kv, group * time, h].
    """
    return _attend_forward(q, key, value, mask, start)[0]


def _unnormalised(q, key, mask, peak=None):
    """exp(scores - peak) float32 [batch, kv, group * time, keys] and the peak, each query's largest
    score."""
    b, k, rows, _ = q.shape
    scores = product(q, key).reshape(b, k, -1, *mask.shape[1:])
    scores = jnp.where(mask[:, None, None], scores, MASKED).reshape(b, k, rows, -1)
    peak = scores.max(-1, keepdims=True) if peak is None else peak
    return jnp.exp(scores - peak), peak


def _forward_rows(q, key, value, mask):
    weights, peak = _unnormalised(q, key, mask)
    total = weights.sum(-1, keepdims=True)
    return product(weights.astype(value.dtype), value) / total, peak, total


def _backward_rows(q, key, value, mask, out, peak, total, g, *, start):
    def own(x):
        return jax.lax.dynamic_slice_in_dim(x, start, mask.shape[1], -1)

    def among(x, own, axis):
        return jax.lax.dynamic_update_slice_in_dim(jnp.zeros_like(x), own, start, axis)

    weights = _unnormalised(q, key, mask, peak)[0] / total
    g = g.astype(value.dtype)
    # Of the rounded cotangent: a query that sees one key alone has exactly no gradient.
    along = (g.astype(jnp.float32) * out).sum(-1, keepdims=True)
    d_scores = (weights * (product(g, value.swapaxes(-1, -2)) - along)).astype(key.dtype)
    d_value = product(own(weights).astype(key.dtype).swapaxes(-1, -2), g).astype(value.dtype)
    d_key = product(q.swapaxes(-1, -2), own(d_scores)).astype(key.dtype)
    d_q = product(d_scores, key.swapaxes(-1, -2))
    return d_q, among(key, d_key, -1), among(value, d_value, -2)


def _by_rows(function, *arrays):
    """`function` of a whole batch, or on a single CPU, whose caches do not hold that much, row by
    row."""

    def mapped(*arrays):
        def row(arrays):
            return jax.tree.map(lambda x: x[0], function(*(a[None] for a in arrays)))

        return jax.lax.map(row, arrays)

    q, mask = arrays[0], arrays[3]
    if mask.shape[1] < MAPPED or q.shape[0] == 1 or row_shards() > 1:
        return function(*arrays)
    return jax.lax.platform_dependent(*arrays, cpu=mapped, default=function)


def _attend_forward(q, key, value, mask, start):
    q = q.astype(key.dtype)
    out, peak, total = (
        checkpoint_name(x, ATTENDED) for x in _by_rows(_forward_rows, q, key, value, mask)
    )
    return out, ((q, key, value, mask, out, peak, total), start)


def _attend_backward(residuals, g):
    rows, start = residuals
    backward = functools.partial(_backward_rows, start=start)
    return *_by_rows(backward, *rows, g), None, None


attend.defvjp(_attend_forward, _attend_backward)


class Attention(nn.Module):
    """Causal self-attention; level 0 of the memory, wiped when the context ends."""

    cfg: DecoderConfig

    @nn.compact
    def __call__(self, x, positions, mask, index):
        """Attends.

        Args:
          x: normalised hidden states [batch, time, d].
          positions: rotary positions [batch, time].
          mask: which keys a query sees, bool [batch, time, keys].
          index: where in the cache this call's keys go (scalar); unused without a cache.

        Returns:
          float32 [batch, time, d].
        """
        cfg = self.cfg
        b, t, _ = x.shape
        h, k = cfg.head_dim, cfg.kv_heads
        group = cfg.heads // k

        def project(name, heads):
            y = Linear(cfg, heads * h, use_bias=cfg.attention_bias, name=name)(x)
            return y.reshape(b, t, heads, h)

        q, key, value = project("q", cfg.heads), project("k", k), project("v", k)
        if cfg.qk_norm:
            q = RMSNorm(cfg.norm_eps, name="q_norm")(q)
            key = RMSNorm(cfg.norm_eps, name="k_norm")(key)
        frequencies = rope_frequencies(cfg)
        q = rotate(q, positions, frequencies) / math.sqrt(h)
        key = rotate(key, positions, frequencies).transpose(0, 2, 3, 1).astype(cfg.dtype)
        value = value.transpose(0, 2, 1, 3).astype(cfg.dtype)

        if self.has_variable("cache", "key"):
            keys, values = self.variable("cache", "key"), self.variable("cache", "value")
            keys.value = jax.lax.dynamic_update_slice(keys.value, key, (0, 0, 0, index))
            values.value = jax.lax.dynamic_update_slice(values.value, value, (0, 0, index, 0))
            key, value = keys.value, values.value

        # The query heads of a group share their keys: fold them into the time axis.
        q = q.reshape(b, t, k, group, h).transpose(0, 2, 3, 1, 4).reshape(b, k, group * t, h)
        out = attend(q, key, value, mask, index).reshape(b, k, group, t, h)
        out = out.transpose(0, 3, 1, 2, 4).reshape(b, t, cfg.heads * h)
        return Linear(cfg, cfg.width, name="o")(out)
