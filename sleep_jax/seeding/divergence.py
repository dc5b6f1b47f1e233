"""Forward KL between teacher and student fused with the LM head: no [batch, time, vocab] array ever
exists.

    KL(T || S) = sum_v T(v) (log T(v) - log S(v)),     T = softmax(h_T W), S = softmax(h_S W)

Its gradient with respect to h_S is (S - T) W^T, and that of log S(y) is (1_y - S) W^T. A cotangent
of either is one number a token, so both gradients are formed while a chunk's logits are at hand and
only scaled in the backward pass: the head is applied twice forward and twice for gradients, and
nothing is recomputed. Several teachers (general Knowledge Seeding) add up, each with its weight.
"""

import functools
import itertools

import flax.struct
import jax
import jax.numpy as jnp

from sleep_jax.models.head import map_chunks
from sleep_jax.models.linear import matmul


@flax.struct.dataclass
class TokenScores:
    """Per token, float32 [tokens].

    Attributes:
      kl: KL(teacher || student), full vocabulary, in nats.
      log_prob: the student's log-probability of the target token.
    """

    kl: jax.Array
    log_prob: jax.Array


def _score(student, teacher, target, head, heads, weights):
    """Scores of one chunk and the gradients of both with respect to `student`."""
    log_s = jax.nn.log_softmax(matmul(student, head), axis=-1)
    mean_s = matmul(jnp.exp(log_s), head.T)
    kl, gradient = jnp.zeros(target.shape), jnp.zeros_like(mean_s)
    ends = list(itertools.accumulate(h.shape[0] for h in heads))
    for hidden, own, weight in zip(jnp.split(teacher, ends[:-1], axis=-1), heads, weights):
        log_t = jax.nn.log_softmax(matmul(hidden, own), axis=-1)
        t = jnp.exp(log_t)
        kl = kl + weight * jnp.sum(t * (log_t - log_s), axis=-1)
        gradient = gradient + weight * (mean_s - matmul(t, head.T))
    log_prob = jnp.take_along_axis(log_s, target[:, None], -1)[:, 0]
    towards = head.T[target].astype(jnp.float32) - mean_s
    return TokenScores(kl, log_prob), TokenScores(gradient, towards)


def token_scores(
    student, teacher, targets, mask, head, chunk: int = 128, *, heads=None, weights=(1.0,)
) -> TokenScores:
    """Divergence and log-probability of every token.

    Only `student` receives a gradient: teachers are fixed and the head is part of the frozen base.

    Args:
      student: hidden states that predict the targets, [tokens, d].
      teacher: the teacher's hidden states at the same tokens, [tokens, d]; those of several
        teachers side by side, [tokens, sum of their d].
      targets: int32 [tokens].
      mask: bool [tokens]; what stands elsewhere may be left out (0).
      head: LM head [d, vocab], its dtype the operand dtype.
      chunk: tokens whose logits exist at a time.
      heads: the teachers' own LM heads [their d, vocab]; None: the student's.
      weights: of the teachers' divergences, which are summed.
    """
    heads = (head,) * len(weights) if heads is None else tuple(heads)
    return _token_scores(student, teacher, targets, mask, head, heads, tuple(weights), chunk)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def _token_scores(student, teacher, targets, mask, head, heads, weights, chunk):
    parts = (student, teacher, targets)
    return map_chunks(lambda *parts: _score(*parts, head, heads, weights)[0], parts, mask, chunk)


def _forward(student, teacher, targets, mask, head, heads, weights, chunk):
    parts = (student, teacher, targets)
    return map_chunks(lambda *parts: _score(*parts, head, heads, weights), parts, mask, chunk)


def _backward(weights, chunk, gradients, g):
    student = g.kl[:, None] * gradients.kl + g.log_prob[:, None] * gradients.log_prob
    return student, None, None, None, None, None


_token_scores.defvjp(_forward, _backward)
