"""softmax(q k) v of grouped queries, whose backward pass keeps nothing of [time, keys]."""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from sleep_jax.models.linear import product
from sleep_jax.models.sharding import row_shards

MASKED = -1e30  # finite, so a row that may attend to nothing stays free of NaN
BY_ROWS = 64  # queries from which on a CPU attends row by row
ATTENDED = "attended"  # checkpoint name of what the backward pass of attention needs


@jax.custom_vjp
def attend(q, key, value, mask, start=0):
    """softmax(q key) value, over the keys that the mask shows.

    The backward pass recomputes the weights from the largest score and the normaliser of each
    query: no array [time, keys] is kept between the passes (Dao et al. 2022, arXiv 2205.14135).
    Only the keys and values of the queries' own tokens get a gradient; earlier ones are constants.

    Args:
      q: scaled queries [batch, kv, group * time, h].
      key: [batch, kv, h, keys]; its dtype is the operand dtype.
      value: [batch, kv, keys, h].
      mask: bool [batch, time, keys].
      start: index of the first query's token among the keys.

    Returns:
      float32 [batch, kv, group * time, h].
    """
    return _attend_forward(q, key, value, mask, start)[0]


def attend_one(q, cached, own, mask):
    """softmax(q k) v of one query a row, over cached keys that a mask shows and over its own.

    Args:
      q: scaled queries [batch, kv, group, h].
      cached: keys and values, as for `attend`.
      own: key [batch, kv, h, 1] and value [batch, kv, 1, h] of the query's token.
      mask: which cached keys it sees, bool [batch, 1, keys].

    Returns:
      float32 [batch, kv, group, h].
    """
    q, own_scores = q.astype(cached[0].dtype), product(q.astype(own[0].dtype), own[0])
    scores = jnp.where(mask[:, None], product(q, cached[0]), MASKED)
    peak = jnp.maximum(scores.max(-1, keepdims=True), own_scores)
    weights, own_weight = jnp.exp(scores - peak), jnp.exp(own_scores - peak)
    total = weights.sum(-1, keepdims=True) + own_weight
    of_cached = product(weights.astype(cached[1].dtype), cached[1])
    return (of_cached + product(own_weight.astype(own[1].dtype), own[1])) / total


def _unnormalised(q, key, mask, peak=None):
    """exp(scores - peak) float32 [batch, kv, group * time, keys] and the peak, each query's largest
    score.
    """
    b, k, rows, _ = q.shape
    scores = product(q, key).reshape(b, k, -1, *mask.shape[1:])
    scores = jnp.where(mask[:, None, None], scores, MASKED).reshape(b, k, rows, -1)
    peak = scores.max(-1, keepdims=True) if peak is None else peak
    return jnp.exp(scores - peak), peak


def forward_rows(q, key, value, mask):
    """What `attend` returns, and of each query the largest score and the normaliser."""
    weights, peak = _unnormalised(q, key, mask)
    total = weights.sum(-1, keepdims=True)
    return product(weights.astype(value.dtype), value) / total, peak, total


def backward_rows(q, key, value, mask, out, peak, total, g, *, start, own: int):
    """The gradients of the queries, and, float32, of the keys and values of the `own` tokens from
    `start` on."""

    def of_call(x):
        return jax.lax.dynamic_slice_in_dim(x, start, own, -1)

    weights = _unnormalised(q, key, mask, peak)[0] / total
    g = g.astype(value.dtype)
    # Of the rounded cotangent: a query that sees one key alone has exactly no gradient.
    mean = (g.astype(jnp.float32) * out).sum(-1, keepdims=True)
    d_scores = (weights * (product(g, value.swapaxes(-1, -2)) - mean)).astype(key.dtype)
    d_value = product(of_call(weights).astype(key.dtype).swapaxes(-1, -2), g)
    d_key = product(q.swapaxes(-1, -2), of_call(d_scores))
    return product(d_scores, key.swapaxes(-1, -2)), d_key, d_value


def padded(x, like, start, axis: int):
    """The gradient `x` of some keys or values as that of all, which have the form of `like`."""
    zeros = jnp.zeros_like(like)
    return jax.lax.dynamic_update_slice_in_dim(zeros, x.astype(like.dtype), start, axis)


def _backward(q, key, value, mask, *saved, start):
    own = mask.shape[1]
    d_q, d_key, d_value = backward_rows(q, key, value, mask, *saved, start=start, own=own)
    return d_q, padded(d_key, key, start, -1), padded(d_value, value, start, -2)


def _by_rows(function, *arrays):
    """`function` of a whole batch; on a single CPU, whose caches are small, row by row."""

    def mapped(*arrays):
        def row(arrays):
            return jax.tree.map(lambda x: x[0], function(*(a[None] for a in arrays)))

        return jax.lax.map(row, arrays)

    q, mask = arrays[0], arrays[3]
    if mask.shape[1] < BY_ROWS or q.shape[0] == 1 or row_shards() > 1:
        return function(*arrays)
    return jax.lax.platform_dependent(*arrays, cpu=mapped, default=function)


def _attend_forward(q, key, value, mask, start):
    q = q.astype(key.dtype)
    out, peak, total = (
        checkpoint_name(x, ATTENDED) for x in _by_rows(forward_rows, q, key, value, mask)
    )
    return out, ((q, key, value, mask, out, peak, total), start)


def _attend_backward(residuals, g):
    rows, start = residuals
    backward = functools.partial(_backward, start=start)
    return *_by_rows(backward, *rows, g), None, None


attend.defvjp(_attend_forward, _attend_backward)
