"""Attention over contexts whose scores do not fit: queries are taken in blocks, one after another,
and which keys they see is found block by block. Nothing of [time, keys] is formed. On a TPU the
forward pass is a kernel (`models/flash.py`).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from sleep_jax.models.attend import ATTENDED, backward_rows, forward_rows, padded
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.flash import flash_forward
from sleep_jax.models.mixer import SHARED_PREFIX
from sleep_jax.models.sharding import ROWS, mesh_axes

MAX_SCORES = 2**28  # of a device at a time


class Segments(NamedTuple):
    """Which keys a query sees: those of its segment, and of the shared prefix where its segment
    continues it, up to its own (`models/mixer.py`).

    Attributes:
      queries: segment ids, int32 [batch, time].
      times: the index of each query's own key, int32 [batch, time].
      keys: segment ids, int32 [batch, keys].
    """

    queries: jax.Array
    times: jax.Array
    keys: jax.Array

    @classmethod
    def of_call(cls, queries, keys, start) -> "Segments":
        """Those of tokens that are next to each other, the first of which is key number `start`."""
        times = start + jnp.arange(queries.shape[1], dtype=jnp.int32)
        return cls(queries, jnp.broadcast_to(times, queries.shape), keys)

    def mask(self):
        """bool [batch, time, keys]."""
        query, key = self.queries[:, :, None], self.keys[:, None]
        related = (key == query) | ((key == SHARED_PREFIX) & (query > 0))
        return related & (jnp.arange(self.keys.shape[1]) <= self.times[:, :, None])


def fits(cfg: DecoderConfig, batch: int, time: int, keys: int) -> bool:
    """Whether a device can hold the scores of all queries."""
    return _block(cfg.heads, cfg.kv_heads, batch, time, keys) == time


def _block(heads: int, kv_heads: int, batch: int, time: int, keys: int) -> int:
    """For how many queries a device holds scores at a time: MAX_SCORES in all, where that is enough
    for one."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = (*mesh_axes(batch, ROWS), *mesh_axes(kv_heads, ("tensor",)))
    is_row_by_row = mesh.empty and jax.default_backend() == "cpu"  # as `attend` has it
    rows = 1 if is_row_by_row else batch
    of_query = rows * heads * keys // math.prod(mesh.shape[axis] for axis in axes)
    return min(time, max(1, MAX_SCORES // of_query))


def num_visible(cfg: DecoderConfig, segments: Segments):
    """How many keys each query sees, int32 [batch, time]."""
    (batch, time), keys = segments.queries.shape, segments.keys.shape[1]
    length = _block(cfg.heads, cfg.kv_heads, batch, time, keys)

    def count(block):
        return Segments(*block, segments.keys).mask().sum(-1)

    blocks = [_split(x, 1, length) for x in (segments.queries, segments.times)]
    return _join(jax.lax.map(count, tuple(blocks)), 1, time)


@jax.custom_vjp
def attend_in_blocks(q, key, value, segments: Segments, start=0):
    """As `attend`, with segments in place of the mask."""
    return _forward(q, key, value, segments, start)[0]


def _forward(q, key, value, segments, start):
    q = q.astype(key.dtype)
    parts = jax.lax.platform_dependent(
        *(q, key, value, segments, start), tpu=flash_forward, default=_forward_in_blocks
    )
    out, peak, total = (checkpoint_name(x, ATTENDED) for x in parts)
    return out, (q, key, value, segments, start, out, peak, total)


def _forward_in_blocks(q, key, value, segments, start):
    del start  # the segments have the times
    blocks, time = _blocks(segments, q), segments.queries.shape[1]

    def forward(block):
        q, *queries = block
        mask = Segments(*queries, segments.keys).mask()
        parts = forward_rows(_folded(q), key, value, mask)
        return [x.reshape(*q.shape[:4], -1) for x in parts]

    return tuple(_folded(_join(x, 3, time)) for x in jax.lax.map(forward, blocks))


def _backward(residuals, g):
    q, key, value, segments, start, out, peak, total = residuals
    own = segments.queries.shape[1]

    def backward(sums, block):
        q, queries, times, out, peak, total, g = block
        mask = Segments(queries, times, segments.keys).mask()
        total = jnp.maximum(total, 1.0)  # as it is, but 0 for padding
        saved = map(_folded, (out, peak, total, g))
        d_q, *d_own = backward_rows(_folded(q), key, value, mask, *saved, start=start, own=own)
        return [a + b for a, b in zip(sums, d_own)], d_q.reshape(q.shape)

    b, k, h, _ = key.shape
    sums = [jnp.zeros((b, k, h, own), jnp.float32), jnp.zeros((b, k, own, h), jnp.float32)]
    (d_key, d_value), d_q = jax.lax.scan(backward, sums, _blocks(segments, q, out, peak, total, g))
    d_q = _folded(_join(d_q, 3, own))
    return d_q, padded(d_key, key, start, -1), padded(d_value, value, start, -2), None, None


attend_in_blocks.defvjp(_forward, _backward)


def _blocks(segments: Segments, q, *others):
    """(q, segments of the queries, times, others) in blocks, each [blocks, ...]: of arrays [batch,
    kv, group * time, ...] as [batch, kv, group, block, ...]."""
    (batch, time), keys = segments.queries.shape, segments.keys.shape[1]
    kv_heads, group = q.shape[1], q.shape[2] // time
    length = _block(kv_heads * group, kv_heads, batch, time, keys)

    def split(x):
        return _split(x.reshape(batch, kv_heads, group, time, -1), 3, length)

    queries = (_split(x, 1, length) for x in (segments.queries, segments.times))
    return (split(q), *queries, *map(split, others))


def _split(x, axis: int, length: int):
    """[blocks, ..., length, ...] of [..., n, ...], with zeros after the last: of segment 0."""
    n = x.shape[axis]
    x = jnp.pad(x, [(0, -n % length if a == axis else 0) for a in range(x.ndim)])
    shape = (*x.shape[:axis], -1, length, *x.shape[axis + 1 :])
    return jnp.moveaxis(x.reshape(shape), axis, 0)


def _join(x, axis: int, n: int):
    """The inverse of `_split`, for `n` without padding."""
    x = jnp.moveaxis(x, 0, axis)
    x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return jax.lax.slice_in_dim(x, 0, n, axis=axis)


def _folded(x):
    """[batch, kv, group * time, ...] of [batch, kv, group, time, ...]."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])
