"""The LM head applied a chunk of tokens at a time: log-probabilities without a [batch, time, vocab]
array."""

import functools

import jax
import jax.numpy as jnp

from sleep_jax.models.linear import matmul, transposed


def map_chunks(function, arrays, mask, chunk: int):
    """Maps `function` over chunks of tokens; a chunk without any token under the mask is not
    computed.

    Args:
      function: takes one chunk of each array, returns a pytree of arrays [chunk, ...].
      arrays: tuple of [tokens, ...].
      mask: bool [tokens].
      chunk: tokens in a chunk; the last one is filled up.

    Returns:
      What `function` returns for all tokens, [tokens, ...]; zeros for chunks that were left out.
    """
    n = mask.shape[0]
    chunk = min(chunk, n)

    def split(a):
        return jnp.pad(a, [(0, -n % chunk)] + [(0, 0)] * (a.ndim - 1)).reshape(
            -1, chunk, *a.shape[1:]
        )

    def compute(parts):
        return function(*parts)

    def leave_out(parts):
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(compute, parts))

    parts, masks = jax.tree.map(split, arrays), split(mask)
    out = jax.lax.map(
        lambda item: jax.lax.cond(jnp.any(item[1]), compute, leave_out, item[0]), (parts, masks)
    )
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], out)


def both_ways(head):
    """The head [d, vocab] and its transpose, laid out for products with either."""
    return transposed(head.T), transposed(head)


def _log_probs(hidden, targets, head, table):
    """Log-probabilities of one chunk and their gradients with respect to `hidden`."""
    log_p = jax.nn.log_softmax(matmul(hidden, head), axis=-1)
    chosen = jnp.take_along_axis(log_p, targets[:, None], -1)[:, 0]
    return chosen, table[targets].astype(jnp.float32) - matmul(jnp.exp(log_p), table)


def token_log_probs(hidden, targets, mask, head, chunk: int = 128):
    """Log-probability of each target token, float32 [tokens]; only `hidden` receives a gradient.

    Args:
      hidden: hidden states that predict the targets, [tokens, d].
      targets: int32 [tokens].
      mask: bool [tokens]; what stands elsewhere may be left out (0).
      head: the frozen LM head [d, vocab], its dtype the operand dtype.
      chunk: tokens whose logits exist at a time.
    """
    return _token_log_probs(hidden, targets, mask, *both_ways(head), chunk)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _token_log_probs(hidden, targets, mask, head, table, chunk):
    return map_chunks(
        lambda *parts: _log_probs(*parts, head, table)[0], (hidden, targets), mask, chunk
    )


def _forward(hidden, targets, mask, head, table, chunk):
    return map_chunks(
        lambda *parts: _log_probs(*parts, head, table), (hidden, targets), mask, chunk
    )


def _backward(chunk, gradient, g):
    return g[:, None] * gradient, None, None, None, None


_token_log_probs.defvjp(_forward, _backward)


def masked_sum(values, mask):
    """(sum over the mask, number of masked-in entries); masked-out values may be anything, NaN
    too."""
    return jnp.sum(jnp.where(mask, values, 0.0)), jnp.sum(mask, dtype=jnp.float32)
