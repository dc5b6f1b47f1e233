"""The LM head applied a chunk of tokens at a time: log-probabilities without a [batch, time, vocab] array."""

import functools

import jax
import jax.numpy as jnp

from sleep_jax.models.linear import matmul


def map_chunks(function, arrays, chunk):
    """Maps `function` over chunks of the leading axis [tokens, ...], padding the last chunk."""
    n = arrays[0].shape[0]
    chunk = min(chunk, n)
    split = [
        jnp.pad(a, [(0, -n % chunk)] + [(0, 0)] * (a.ndim - 1)).reshape(-1, chunk, *a.shape[1:])
        for a in arrays
    ]
    out = jax.lax.map(lambda parts: function(*parts), tuple(split))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], out)



def _log_probs(hidden, targets, head):
    """Log-probabilities of one chunk and their gradients with respect to `hidden`."""
    log_p = jax.nn.log_softmax(matmul(hidden, head), axis=-1)
    chosen = jnp.take_along_axis(log_p, targets[:, None], -1)[:, 0]
    return chosen, head.T[targets].astype(jnp.float32) - matmul(jnp.exp(log_p), head.T)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def token_log_probs(hidden, targets, head, chunk: int = 128):
    """Log-probability of each target token, float32 [tokens]; only `hidden` receives a gradient.

    Args:
      hidden: hidden states that predict the targets, [tokens, d].
      targets: int32 [tokens].
      head: the frozen LM head [d, vocab], its dtype the operand dtype.
      chunk: tokens whose logits exist at a time.
    """
    return map_chunks(lambda *parts: _log_probs(*parts, head)[0], (hidden, targets), chunk)


def _forward(hidden, targets, head, chunk):
    return map_chunks(lambda *parts: _log_probs(*parts, head), (hidden, targets), chunk)


def _backward(chunk, gradient, g):
    return g[:, None] * gradient, None, None


token_log_probs.defvjp(_forward, _backward)


def masked_sum(values, mask):
    """(sum over the mask, number of masked-in entries); masked-out values may be anything, NaN too."""
    return jnp.sum(jnp.where(mask, values, 0.0)), jnp.sum(mask, dtype=jnp.float32)
