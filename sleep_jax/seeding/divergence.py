"""Forward KL between teacher and student fused with the LM head: no [batch, time, vocab] array ever
exists.

    KL(T || S) = sum_v T(v) (log T(v) - log S(v)),     T = softmax(h_T W), S = softmax(h_S W)

Its gradient with respect to h_S is (S - T) W^T, and that of log S(y) is (1_y - S) W^T. A cotangent
of either is one number a token, so both gradients are formed while a chunk's logits are at hand and
only scaled in the backward pass: the head is applied twice forward and twice for gradients, and
  nothing is recomputed.
"""

import functools

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


def _score(student, teacher, target, head):
    """Scores of one chunk and the gradients of both with respect to `student`."""
    log_s = jax.nn.log_softmax(matmul(student, head), axis=-1)
    log_t = jax.nn.log_softmax(matmul(teacher, head), axis=-1)
    t = jnp.exp(log_t)
    scores = TokenScores(
        kl=jnp.sum(t * (log_t - log_s), axis=-1),
        log_prob=jnp.take_along_axis(log_s, target[:, None], -1)[:, 0],
    )
    mean_s = matmul(jnp.exp(log_s), head.T)
    gradients = TokenScores(
        kl=mean_s - matmul(t, head.T), log_prob=head.T[target].astype(jnp.float32) - mean_s
    )
    return scores, gradients


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def token_scores(student, teacher, targets, mask, head, chunk: int = 128) -> TokenScores:
    """Divergence and log-probability of every token.

    Only `student` receives a gradient: the teacher is fixed and the head is part of the frozen
      base.

    Args:
      student: hidden states that predict the targets, [tokens, d].
      teacher: the teacher's hidden states at the same tokens, [tokens, d].
      targets: int32 [tokens].
      mask: bool [tokens]; what stands elsewhere may be left out (0).
      head: LM head [d, vocab], its dtype the operand dtype.
      chunk: tokens whose logits exist at a time.
    """
    parts = (student, teacher, targets)
    return map_chunks(lambda *parts: _score(*parts, head)[0], parts, mask, chunk)


def _forward(student, teacher, targets, mask, head, chunk):
    parts = (student, teacher, targets)
    return map_chunks(lambda *parts: _score(*parts, head), parts, mask, chunk)


def _backward(chunk, gradients, g):
    student = g.kl[:, None] * gradients.kl + g.log_prob[:, None] * gradients.log_prob
    return student, None, None, None, None


token_scores.defvjp(_forward, _backward)
