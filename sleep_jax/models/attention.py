"""Grouped-query attention with rotary positions, over packed segments or over a KV cache.

Keys are kept as [batch, kv, head_dim, time] and values as [batch, kv, time, head_dim], so both
products of a decode step are plain batched matrix products.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from sleep_jax.models.config import DecoderConfig
from sleep_jax.models.linear import Linear, RMSNorm, matmul

MASKED = -1e30  # finite, so a row that may attend to nothing stays free of NaN


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
        scores = matmul(q, key).reshape(b, k, group, t, -1)
        scores = jnp.where(mask[:, None, None], scores, MASKED)
        weights = jax.nn.softmax(scores, axis=-1).reshape(b, k, group * t, -1)
        out = matmul(weights, value).reshape(b, k, group, t, h)
        out = out.transpose(0, 3, 1, 2, 4).reshape(b, t, cfg.heads * h)
        return Linear(cfg, cfg.width, name="o")(out)
