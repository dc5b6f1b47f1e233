"""Divergence between teacher and student fused with the LM head: no [batch, time, vocab] array ever
exists. With u = h_S W / temperature, S = softmax(u), and T that of the teacher:

    kind     D                                                     dD / du
    forward  KL(T || S) = sum_v T(v) (log T(v) - log S(v))         S - T
    reverse  KL(S || T)                                            S (log S - log T - D)
    jsd      beta KL(T || M) + (1 - beta) KL(S || M),              (1 - beta) S
             M = beta T + (1 - beta) S                               (log S - log M - KL(S || M))
    top_k    KL(Q || S); Q is T on the teacher's k most likely     S - Q
             tokens and shares the rest of T's mass as S would
    sampled  log S(y) - log T(y), y ~ S                            D (1_y - S)

jsd is that of GKD (Agarwal et al., 2024, Eq. 1): D / beta tends to KL(T || S) for beta -> 0 and
D / (1 - beta) to KL(S || T) for beta -> 1. D itself tends to 0, so the two ends are defined as
forward and reverse KL, as in TRL. Q makes top_k the forward KL over k tokens and a bucket.

A cotangent is one number a token, so gradients with respect to h_S are formed in the forward pass,
while a chunk's logits exist, and only scaled in the backward pass: dD/du W^T / temperature,
(1_y - S) W^T for log S(y) and, if requested, - S (log S + H) W^T for the entropy H. The head is
applied once a model forward and once a gradient; nothing is recomputed. What is multiplied by W^T
is formed in float32, rounded to the head's dtype, and sums to 0 over the vocabulary
(`grad_of_hidden`). Several teachers (general Knowledge Seeding) add up, each with its weight.
"""

import dataclasses
import functools
import itertools
import math

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from sleep_jax.models.head import grad_of_hidden, grad_of_log_prob, head_and_transpose, map_chunks
from sleep_jax.models.linear import matmul
from sleep_jax.models.sharding import ROWS, VOCAB, mesh_axes
from sleep_jax.sampling.sampler import MIN_TEMPERATURE
from sleep_jax.settings import Settings, setting

KINDS = ("forward", "reverse", "jsd", "top_k", "sampled")
TERMS = KINDS[:3]  # sums over the vocabulary of a term for each word


@dataclasses.dataclass(frozen=True)
class Divergence(Settings, section="seeding"):
    """Which divergence; static.

    `sampled` estimates KL(S || T), and its mean gradient is that of KL(S || T), but only over
    targets that the student itself has sampled, at `temperature`; elsewhere it is undefined.
    `top_k` of the whole vocabulary is forward KL. Gradients are those of the value: there is no
    factor temperature^2. A token's divergence, summed over vocabulary and teachers, is min(D, cap),
    and its gradient is 0 where it reaches the cap.

    Attributes:
      term_cap: nats that a single word of the vocabulary counts at most in `forward`, `reverse` or
        `jsd`, sum_v min(f_v, term_cap), as OPSD has it; None: no cap. Terms below 0 stay as they
        are, so that the divergence of a token may be below 0, and growing. Not in a run's config.

    Raises:
      ValueError: a field is out of range, or `cap` or `term_cap` does not fit the kind.
    """

    kind: str = setting(
        "forward", "divergence between teacher and student", choices=KINDS, name="divergence"
    )
    beta: float = setting(
        0.5, "beta of jsd: 0 is forward KL, 1 reverse", least=0, most=1, name="jsd_beta"
    )
    top_k: int = setting(
        64, "k of top_k: the teacher's likeliest tokens, ties included",
        least=1, name="divergence_top_k",
    )  # fmt: skip
    temperature: float = setting(
        1.0, "temperature of the divergence: divides both models' logits",
        least=MIN_TEMPERATURE, name="divergence_temperature",
    )  # fmt: skip
    cap: float | None = setting(
        None, "nats that a token's divergence counts at most; 0: no cap",
        above=0, none=0, name="divergence_cap",
    )  # fmt: skip
    term_cap: float | None = None

    def check(self) -> None:
        if self.term_cap is not None and not (self.kind in TERMS and self.term_cap > 0):
            raise ValueError(
                f"term_cap={self.term_cap} with seeding.divergence={self.kind!r}; give a number "
                f"above 0 with one of {', '.join(TERMS)}, or None"
            )
        if self.cap is not None and self.kind == "sampled":
            raise ValueError(
                f"seeding.divergence_cap={self.cap} with seeding.divergence='sampled', one term of "
                "a sum that may be below 0; only whole sums are capped: choose another or no cap"
            )


@flax.struct.dataclass
class TokenScores:
    """What is known of every token, float32 [tokens] each.

    Attributes:
      kl: the divergence, in nats. Finite logits give finite values; forward KL is inf where the
        student's logit of a token with teacher's mass is -inf, reverse KL the other way round.
      log_prob: the student's log-probability of the target token, at temperature 1.
      entropy: of the student's distribution, in nats, at temperature 1; None: not computed.
    """

    kl: jax.Array
    log_prob: jax.Array
    entropy: jax.Array | None = None


SCORES = tuple(field.name for field in dataclasses.fields(TokenScores))


def _expected(p, x):
    """sum_v p(v) x(v) with 0 * inf = 0; NaN where p is NaN."""
    return jnp.sum(jnp.where(p == 0, 0.0, p * x), axis=-1, keepdims=True)


def _forward_kl(log_s, log_t):
    s, t = jnp.exp(log_s), jnp.exp(log_t)
    return _expected(t, log_t - log_s), s - t


def _reverse_kl(log_s, log_t):
    s, gap = jnp.exp(log_s), log_s - log_t
    kl = _expected(s, gap)
    return kl, jnp.where(s == 0, 0.0, s * (gap - kl))


def _jsd(log_s, log_t, beta: float):
    if beta in (0, 1):
        return (_reverse_kl if beta else _forward_kl)(log_s, log_t)
    log_m = jnp.logaddexp(log_t + math.log(beta), log_s + math.log1p(-beta))
    kl, gradient = _reverse_kl(log_s, log_m)
    value = beta * _expected(jnp.exp(log_t), log_t - log_m) + (1 - beta) * kl
    return value, (1 - beta) * gradient


def _capped_terms(divergence: Divergence, log_s, log_t):
    """sum_v min(f_v, term_cap), where sum_v f_v is the divergence: [tokens, 1], and its gradient.

    With g_v = S(v) df_v / dS(v) of the terms below the cap, dD / du = g - S sum_v g_v.
    """
    s, t = jnp.exp(log_s), jnp.exp(log_t)
    beta = {"forward": 0, "reverse": 1}.get(divergence.kind, divergence.beta)

    def times(p, x):
        return jnp.where(p == 0, 0.0, p * x)

    if beta == 0:
        terms, slopes = times(t, log_t - log_s), -t
    elif beta == 1:
        terms = times(s, log_s - log_t)
        slopes = terms + s
    else:
        log_m = jnp.logaddexp(log_t + math.log(beta), log_s + math.log1p(-beta))
        slopes = (1 - beta) * times(s, log_s - log_m)
        terms = beta * times(t, log_t - log_m) + slopes
    slopes = jnp.where(terms < divergence.term_cap, slopes, 0.0)
    value = jnp.sum(jnp.minimum(terms, divergence.term_cap), axis=-1, keepdims=True)
    return value, slopes - s * jnp.sum(slopes, axis=-1, keepdims=True)


def _kth_largest(x, k: int):
    """The k-th largest of every row of [tokens, vocab]: [tokens, 1].

    Written for each shard, since the compiler would gather whole rows: the k largest of a row are
    among the k largest of every shard of its vocabulary.
    """
    rows, vocab = (mesh_axes(n, names) for n, names in zip(x.shape, (ROWS, VOCAB)))

    def kth_of_shard(x):
        best, _ = jax.lax.top_k(x, min(k, x.shape[-1]))
        if vocab:
            best = jax.lax.all_gather(best, vocab, axis=1, tiled=True)
            best, _ = jax.lax.top_k(best, min(k, best.shape[-1]))
        # Their minimum rather than the last: XLA would make a slice of it a sort of the vocabulary.
        return jnp.min(best, axis=-1, keepdims=True)

    if not rows + vocab:
        return kth_of_shard(x)
    in_specs, out_specs = PartitionSpec(rows, vocab), PartitionSpec(rows)
    return jax.shard_map(kth_of_shard, in_specs=in_specs, out_specs=out_specs, check_vma=False)(x)


def _top_k(log_s, log_t, k: int):
    is_tail = log_t < _kth_largest(log_t, k)
    rest_t, rest_s = (
        jax.nn.logsumexp(jnp.where(is_tail, x, -jnp.inf), axis=-1, keepdims=True)
        for x in (log_t, log_s)
    )
    return _forward_kl(log_s, jnp.where(is_tail, log_s + (rest_t - rest_s), log_t))


def _sampled(log_s, log_t, target):
    gap = jnp.take_along_axis(log_s - log_t, target[:, None], -1)
    return gap, gap * grad_of_log_prob(jnp.exp(log_s), target)


def _value_and_grad(divergence: Divergence, log_s, log_t, target):
    """The divergence from one teacher, D [tokens, 1], and dD/du [tokens, vocab]."""
    if divergence.term_cap is not None:
        return _capped_terms(divergence, log_s, log_t)
    match divergence.kind:
        case "forward":
            return _forward_kl(log_s, log_t)
        case "reverse":
            return _reverse_kl(log_s, log_t)
        case "jsd":
            return _jsd(log_s, log_t, divergence.beta)
        case "top_k":
            return _top_k(log_s, log_t, divergence.top_k)
        case "sampled":
            return _sampled(log_s, log_t, target)
    raise ValueError(f"seeding.divergence={divergence.kind!r}; choose one of {', '.join(KINDS)}")


def _score(student, teacher, target, head, table, heads, weights, divergence, has_entropy, learnt):
    """Scores of one chunk and, of those in `learnt`, the gradients with respect to `student`."""
    logits, temperature = matmul(student, head), divergence.temperature
    log_p = jax.nn.log_softmax(logits, axis=-1)
    log_s = log_p if temperature == 1 else jax.nn.log_softmax(logits / temperature, axis=-1)
    kl, kl_grad = jnp.zeros((len(target), 1)), jnp.zeros_like(logits)
    ends = list(itertools.accumulate(h.shape[0] for h in heads))
    teachers = zip(jnp.split(teacher, ends[:-1], axis=-1), heads, weights)
    for hidden, teacher_head, weight in teachers:
        log_t = jax.nn.log_softmax(matmul(hidden, teacher_head) / temperature, axis=-1)
        value, grad = _value_and_grad(divergence, log_s, log_t, target)
        kl, kl_grad = kl + weight * value, kl_grad + weight * grad
    if divergence.cap is not None:
        kl_grad = jnp.where(kl < divergence.cap, kl_grad, 0.0)
        kl = jnp.minimum(kl, divergence.cap)
    log_prob, p = jnp.take_along_axis(log_p, target[:, None], -1)[:, 0], jnp.exp(log_p)
    scores, grads = TokenScores(kl[:, 0], log_prob), TokenScores(None, None)
    if "kl" in learnt:
        grads = grads.replace(kl=grad_of_hidden(kl_grad / temperature, table, target))
    if "log_prob" in learnt:
        grads = grads.replace(log_prob=grad_of_hidden(grad_of_log_prob(p, target), table, target))
    if has_entropy:
        entropy = -_expected(p, log_p)
        scores = scores.replace(entropy=entropy[:, 0])
        if "entropy" in learnt:
            entropy_grad = jnp.where(p == 0, 0.0, -p * (log_p + entropy))
            grads = grads.replace(entropy=grad_of_hidden(entropy_grad, table, target))
    return scores, grads


def token_scores(
    student,
    teacher,
    targets,
    mask,
    head,
    logit_chunk: int = 128,
    *,
    heads=None,
    weights=(1.0,),
    divergence: Divergence = Divergence(),
    has_entropy: bool = False,
) -> TokenScores:
    """Divergence and log-probability of every token.

    Only `student` receives a gradient: teachers are fixed and the head is part of the frozen base.

    Args:
      student: hidden states that predict the targets, [tokens, d].
      teacher: the teacher's hidden states at the same tokens, [tokens, d]; those of several
        teachers are concatenated, [tokens, sum of their d].
      targets: int32 [tokens].
      mask: bool [tokens]; tokens outside it may come back as 0.
      head: LM head [d, vocab]; its dtype is that of the operands of the products.
      logit_chunk: tokens whose logits exist at a time.
      heads: the teachers' LM heads, [d of the teacher, vocab] each; None: all have the student's.
      weights: of the teachers' divergences, which are summed.
      divergence: which.
      has_entropy: compute the entropy, too.
    """
    arrays = _laid_out(head, heads, weights)
    options = (logit_chunk, divergence, has_entropy, SCORES)
    return _token_scores(student, teacher, targets, mask, *arrays, *options)


def scores_and_grads(
    student,
    teacher,
    targets,
    mask,
    head,
    logit_chunk: int = 128,
    *,
    heads=None,
    weights=(1.0,),
    divergence: Divergence = Divergence(),
    has_entropy: bool = False,
    learnt: tuple[str, ...] = SCORES,
) -> tuple[TokenScores, TokenScores]:
    """`token_scores` and the gradients of the scores.

    Args:
      learnt: scores whose gradients are formed, each for a product with the head.
      others: as for `token_scores`.

    Returns:
      (scores, grads): grads are d score / d student, [tokens, d], by score; None for scores that
      are not in `learnt`. Autodiff through `token_scores` scales and adds them up.
    """
    arrays = _laid_out(head, heads, weights)
    options = (logit_chunk, divergence, has_entropy, learnt)
    return _forward(student, teacher, targets, mask, *arrays, *options)


def _laid_out(head, heads, weights):
    """(head, its transpose, the teachers' heads, weights), laid out once for all chunks."""
    weights = tuple(weights)
    head, table = head_and_transpose(head)
    heads = (
        (head,) * len(weights) if heads is None else tuple(head_and_transpose(h)[0] for h in heads)
    )
    return head, table, heads, weights


@functools.partial(jax.custom_vjp, nondiff_argnums=(7, 8, 9, 10, 11))
def _token_scores(
    student, teacher, targets, mask, head, table, heads, weights, logit_chunk, *options
):
    parts, rest = (student, teacher, targets), (head, table, heads, weights, *options)
    return map_chunks(lambda *parts: _score(*parts, *rest)[0], parts, mask, logit_chunk)


def _forward(student, teacher, targets, mask, head, table, heads, weights, logit_chunk, *options):
    parts, rest = (student, teacher, targets), (head, table, heads, weights, *options)
    return map_chunks(lambda *parts: _score(*parts, *rest), parts, mask, logit_chunk)


def _backward(weights, logit_chunk, divergence, has_entropy, learnt, grads, cotangents):
    pairs = zip(jax.tree.leaves(cotangents), jax.tree.leaves(grads))
    student = sum(cotangent[:, None] * grad for cotangent, grad in pairs)
    return student, None, None, None, None, None, None


_token_scores.defvjp(_forward, _backward)
