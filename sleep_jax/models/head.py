"""The LM head applied a chunk of tokens at a time: log-probabilities without a [batch, time, vocab]
array.

Under a mesh (`jax.set_mesh`) tokens are not moved, and a head that `tensor` splits along the
vocabulary is never gathered: devices exchange sums over the vocabulary only.
"""

import functools

import jax
import jax.numpy as jnp

from sleep_jax.models.linear import matmul, transposed
from sleep_jax.models.sharding import ROWS, constrain, row_shards


def map_chunks(function, arrays, mask, chunk: int):
    """Maps `function` over chunks of tokens; a chunk without any token under the mask is not
    computed.

    Args:
      function: takes one chunk of each array, returns a pytree of arrays [chunk, ...].
      arrays: tuple of [tokens, ...].
      mask: bool [tokens].
      chunk: tokens of a chunk on every shard of a mesh; the last one is padded.

    Returns:
      What `function` returns for all tokens, [tokens, ...]; zeros for skipped chunks.
    """
    n = mask.shape[0]
    shards = 1 if n % row_shards() else row_shards()
    chunk = min(chunk, n // shards)

    def split(a):
        # A chunk has tokens of every shard, so no shard is idle.
        a = a.reshape(shards, -1, *a.shape[1:])
        a = jnp.pad(a, [(0, 0), (0, -a.shape[1] % chunk)] + [(0, 0)] * (a.ndim - 2))
        a = a.reshape(shards, -1, chunk, *a.shape[2:]).swapaxes(0, 1)
        a = a.reshape(-1, shards * chunk, *a.shape[3:])
        return constrain(a, None, ROWS, *[None] * (a.ndim - 2))

    def join(a):
        a = a.reshape(-1, shards, chunk, *a.shape[2:]).swapaxes(0, 1)
        return a.reshape(shards, -1, *a.shape[3:])[:, : n // shards].reshape(n, *a.shape[3:])

    def compute(parts):
        return function(*parts)

    def skip(parts):
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(compute, parts))

    parts, masks = jax.tree.map(split, arrays), split(mask)
    out = jax.lax.map(
        lambda item: jax.lax.cond(jnp.any(item[1]), compute, skip, item[0]), (parts, masks)
    )
    return jax.tree.map(join, out)


def head_and_transpose(head):
    """The head [d, vocab] and its transpose, each in the layout for its products; shards of `fsdp`
    are gathered once for all chunks.
    """
    head = constrain(head, None, "tensor")
    return transposed(head.T), transposed(head)


def grad_of_hidden(d_logits, table, targets):
    """Gradients with respect to hidden states, d_logits @ table, float32 [tokens, d].

    A shift of all logits changes nothing, so every row of d_logits sums to 0. Where the probability
    of the target is near 1, its entry is a difference of two numbers near 1: the rounding error of
    the sum is subtracted there, which makes that entry as precise as the sum of the others.

    Args:
      d_logits: gradients with respect to logits, float32 [tokens, vocab].
      table: the head, transposed, [vocab, d].
      targets: int32 [tokens].
    """
    d_logits = d_logits.astype(table.dtype)
    # A product, not a sum, which would copy to float32 first.
    error = matmul(d_logits, jnp.ones((d_logits.shape[-1], 1), d_logits.dtype))
    return matmul(d_logits, table) - error * table[targets].astype(jnp.float32)


def grad_of_log_prob(p, targets):
    """d log p(y) / d logits = 1_y - p of distributions p, float32 [tokens, vocab]."""
    return (jnp.arange(p.shape[-1]) == targets[:, None]) - p


def _log_probs(hidden, targets, head, table):
    """Log-probabilities of one chunk and their gradients with respect to `hidden`."""
    log_p = jax.nn.log_softmax(matmul(hidden, head), axis=-1)
    chosen = jnp.take_along_axis(log_p, targets[:, None], -1)[:, 0]
    return chosen, grad_of_hidden(grad_of_log_prob(jnp.exp(log_p), targets), table, targets)


def token_log_probs(hidden, targets, mask, head, logit_chunk: int = 128):
    """Log-probability of each target token, float32 [tokens]; only `hidden` gets a gradient.

    Args:
      hidden: hidden states that predict the targets, [tokens, d].
      targets: int32 [tokens].
      mask: bool [tokens]; entries outside it may be 0 instead.
      head: the frozen LM head [d, vocab], its dtype the operand dtype.
      logit_chunk: tokens whose logits exist at a time.
    """
    return _token_log_probs(hidden, targets, mask, *head_and_transpose(head), logit_chunk)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _token_log_probs(hidden, targets, mask, head, table, logit_chunk):
    return map_chunks(
        lambda *parts: _log_probs(*parts, head, table)[0], (hidden, targets), mask, logit_chunk
    )


def _forward(hidden, targets, mask, head, table, logit_chunk):
    return map_chunks(
        lambda *parts: _log_probs(*parts, head, table), (hidden, targets), mask, logit_chunk
    )


def _backward(logit_chunk, gradient, g):
    return g[:, None] * gradient, None, None, None, None


_token_log_probs.defvjp(_forward, _backward)


def token_log_probs_with_head(hidden, targets, mask, head, logit_chunk: int = 128):
    """`token_log_probs` whose gradient reaches the head, too, for training that includes it: a
    chunk's logits are computed again in the backward pass.

    Args:
      hidden, targets, mask, head, logit_chunk: as for `token_log_probs`.
    """

    @jax.checkpoint
    def log_probs(hidden, targets, head):
        log_p = jax.nn.log_softmax(matmul(hidden, head), axis=-1)
        return jnp.take_along_axis(log_p, targets[:, None], -1)[:, 0]

    return map_chunks(lambda *parts: log_probs(*parts, head), (hidden, targets), mask, logit_chunk)


def token_scores(hidden, targets, mask, head, logit_chunk: int = 128):
    """`token_log_probs` without gradients, and whether each target is the likeliest token.

    Args:
      hidden, targets, mask, head, logit_chunk: as for `token_log_probs`.

    Returns:
      (float32 [tokens], bool [tokens]); of entries outside the mask maybe 0 and False.
    """
    head, _ = head_and_transpose(head)

    def scores(hidden, targets):
        log_p = jax.nn.log_softmax(matmul(hidden, head), axis=-1)
        chosen = jnp.take_along_axis(log_p, targets[:, None], -1)[:, 0]
        return chosen, jnp.argmax(log_p, -1) == targets

    return map_chunks(scores, (hidden, targets), mask, logit_chunk)


def masked_sum(values, mask):
    """(sum over the mask, number of its entries); values outside it may be anything, even NaN."""
    return jnp.sum(jnp.where(mask, values, 0.0)), jnp.sum(mask, dtype=jnp.float32)
