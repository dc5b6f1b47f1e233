"""Attention on a TPU that keeps scores in its vector memory: a Pallas kernel of the forward pass.

Scores of a block of queries and a block of keys at a time, with the running largest score and
normaliser of each query (Dao et al. 2022, arXiv 2205.14135; Milakov and Gimelshein 2018, arXiv
1805.02867). Which keys a query sees is found in the kernel from segment ids; blocks of keys that
lie behind all queries of a block are neither read nor computed. The kernels that JAX brings know no
prefix that several segments share, and no place among the keys that only the data say.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, PartitionSpec

from sleep_jax.models.attend import MASKED
from sleep_jax.models.mixer import SHARED_PREFIX
from sleep_jax.models.sharding import AXES, ROWS, mesh_axes

BLOCK = 512  # queries, and keys, of a block
LANES, SUBLANES = (
    128,
    8,
)  # of a register: ids lie along one of them and are repeated along the other


def flash_forward(q, key, value, segments, start, *, block: int = BLOCK, interpret: bool = False):
    """As `attend.forward_rows`: what a query attends to, its largest score and its normaliser.

    Args:
      q: scaled queries [batch, kv, group * time, h], in the dtype of the keys.
      key, value: [batch, kv, h, keys] and [batch, kv, keys, h].
      segments: `Segments` of the queries and the keys.
      start: index of the first query's token among the keys.
      block: queries, and keys, of a block.
      interpret: run as ordinary operations, on any device.
    """
    run = functools.partial(_flash, block=block, interpret=interpret)
    if not mesh_axes(0, AXES):
        return run(q, key, value, segments, start)
    # The compiler cannot split a kernel: each device is given its rows and heads.
    rows, heads = mesh_axes(len(q), ROWS) or None, mesh_axes(q.shape[1], ("tensor",)) or None
    by_head, by_row = PartitionSpec(rows, heads), PartitionSpec(rows)
    mesh = jax.sharding.get_abstract_mesh()
    return jax.shard_map(
        run,
        in_specs=(by_head, by_head, by_head, by_row, PartitionSpec()),
        out_specs=by_head,
        axis_names={
            n for n, kind in zip(mesh.axis_names, mesh.axis_types) if kind == AxisType.Auto
        },
        check_vma=False,
    )(q, key, value, segments, start)


def _flash(q, key, value, segments, start, *, block: int, interpret: bool):
    (batch, kv, rows, h), time = q.shape, segments.queries.shape[1]
    group, more_time, more_keys = rows // time, -time % block, -key.shape[-1] % block

    def padded(x, axis, more):
        return jnp.pad(x, [(0, more if a == axis else 0) for a in range(x.ndim)])

    q = padded(q.reshape(batch, kv, group, time, h), 3, more_time).reshape(batch, kv, -1, h)
    key, value = padded(key, 3, more_keys), padded(value, 2, more_keys)
    ids = padded(segments.keys, 1, more_keys)  # behind every query
    along_keys = jnp.broadcast_to(ids[:, None], (batch, SUBLANES, ids.shape[1]))
    along_queries = [
        jnp.broadcast_to(padded(x, 1, more_time)[..., None], (batch, time + more_time, LANES))
        for x in (segments.queries, segments.times)
    ]
    of_group, blocks = (time + more_time) // block, ids.shape[1] // block

    def last(i, start):
        """The last block of keys that a query of block i sees."""
        return jnp.minimum((start[0] + (i % of_group + 1) * block - 1) // block, blocks - 1)

    def at(shape, index):
        return pl.BlockSpec((1, *shape), index)

    queries = at((1, block, h), lambda b, k, i, j, start: (b, k, i, 0))
    number = at((1, block, LANES), lambda b, k, i, j, start: (b, k, i, 0))
    call = pl.pallas_call(
        functools.partial(_kernel, last, blocks),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(batch, kv, q.shape[2] // block, blocks),
            in_specs=[
                queries,
                at((1, h, block), lambda b, k, i, j, s: (b, k, 0, jnp.minimum(j, last(i, s)))),
                at((1, block, h), lambda b, k, i, j, s: (b, k, jnp.minimum(j, last(i, s)), 0)),
                *[at((block, LANES), lambda b, k, i, j, s: (b, i % of_group, 0))] * 2,
                at((SUBLANES, block), lambda b, k, i, j, s: (b, 0, jnp.minimum(j, last(i, s)))),
            ],
            out_specs=[queries, number, number],
            scratch_shapes=[
                pltpu.VMEM((block, LANES), jnp.float32),
                pltpu.VMEM((block, LANES), jnp.float32),
                pltpu.VMEM((block, h), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((*q.shape[:3], last_axis), jnp.float32)
            for last_axis in (h, LANES, LANES)
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
        ),
        interpret=interpret,
    )
    start = jnp.reshape(start, (1,)).astype(jnp.int32)
    parts = call(start, q, key, value, *along_queries, along_keys)
    parts = (x.reshape(batch, kv, group, time + more_time, -1)[:, :, :, :time] for x in parts)
    out, peak, total = (x.reshape(batch, kv, rows, -1) for x in parts)
    return out, peak[..., :1], total[..., :1]


def _kernel(
    last, blocks, start, q, key, value, segment, time, ids, out, peak, total, peaks, totals, sums
):
    i, j = pl.program_id(2), pl.program_id(3)

    @pl.when(j == 0)
    def _():
        peaks[...] = jnp.full_like(peaks, -math.inf)
        totals[...] = jnp.zeros_like(totals)
        sums[...] = jnp.zeros_like(sums)

    @pl.when(j <= last(i, start))
    def _():
        scores = jnp.dot(q[0, 0], key[0, 0], preferred_element_type=jnp.float32)
        query, own = segment[0][:, :1], ids[0][:1]
        number = j * scores.shape[1] + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
        related = (own == query) | ((own == SHARED_PREFIX) & (query > 0))
        scores = jnp.where(related & (number <= time[0][:, :1]), scores, MASKED)
        before = peaks[:, :1]
        now = jnp.maximum(before, scores.max(-1, keepdims=True))
        weights, kept = jnp.exp(scores - now), jnp.exp(before - now)
        weighted = jnp.dot(
            weights.astype(value.dtype), value[0, 0], preferred_element_type=jnp.float32
        )
        sums[...] = sums[...] * kept + weighted
        total_now = totals[:, :1] * kept + weights.sum(-1, keepdims=True)
        totals[...] = jnp.broadcast_to(total_now, totals.shape)
        peaks[...] = jnp.broadcast_to(now, peaks.shape)

    @pl.when(j == blocks - 1)
    def _():
        out[0, 0] = sums[...] / totals[:, :1]
        peak[0, 0] = peaks[...]
        total[0, 0] = totals[...]
