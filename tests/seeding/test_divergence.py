"""Forward KL fused with the LM head: hand values, the naive formula, and its direction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.models.head import masked_sum
from sleep_jax.seeding.divergence import token_scores

RNG = np.random.default_rng(0)
STUDENT, TEACHER = (jnp.asarray(RNG.normal(size=(11, 6)), jnp.float32) for _ in range(2))
HEAD = jnp.asarray(RNG.normal(size=(6, 13)), jnp.float32)
TARGETS = jnp.asarray(RNG.integers(0, 13, 11), jnp.int32)
EVERY = jnp.ones(11, bool)


def naive(student, teacher=TEACHER):
    log_s, log_t = jax.nn.log_softmax(student @ HEAD), jax.nn.log_softmax(teacher @ HEAD)
    kl = (jnp.exp(log_t) * (log_t - log_s)).sum(-1)
    return kl, jnp.take_along_axis(log_s, TARGETS[:, None], -1)[:, 0]


def test_by_hand():
    # Two tokens, three words. Token 0: T = (1/2, 1/4, 1/4), S = (1/4, 1/4, 1/2);
    # token 1: T = (1/3, 1/3, 1/3), S = (1/2, 1/3, 1/6).
    teacher = jnp.log(jnp.array([[2.0, 1.0, 1.0], [1.0, 1.0, 1.0]]))
    student = jnp.log(jnp.array([[1.0, 1.0, 2.0], [3.0, 2.0, 1.0]]))
    targets = jnp.array([2, 0])

    def scores(student):
        return token_scores(student, teacher, targets, jnp.ones(2, bool), jnp.eye(3))

    got = scores(student)
    kl = [0.5 * np.log(2) - 0.25 * np.log(2), (np.log(2 / 3) + np.log(1) + np.log(2)) / 3]
    np.testing.assert_allclose(got.kl, kl, rtol=1e-5)
    np.testing.assert_allclose(got.log_prob, np.log([1 / 2, 1 / 2]), rtol=1e-6)
    # d KL / d logits = S - T.
    gradient = jax.grad(lambda s: scores(s).kl.sum())(student)
    np.testing.assert_allclose(gradient, [[-1 / 4, 0, 1 / 4], [1 / 6, 0, -1 / 6]], atol=1e-6)


def test_it_is_the_teacher_that_weighs():
    # T is sharp where S is flat: KL(T || S) = log 2 to within 1e-3, KL(S || T) is over 4.
    sharp, flat = jnp.array([[10.0, 0.0]]), jnp.array([[0.0, 0.0]])
    one = jnp.zeros(1, jnp.int32), jnp.ones(1, bool), jnp.eye(2)
    np.testing.assert_allclose(token_scores(flat, sharp, *one).kl, np.log(2), atol=1e-3)
    np.testing.assert_allclose(token_scores(sharp, flat, *one).kl, 5 - np.log(2), atol=1e-3)


@pytest.mark.parametrize("chunk", [1, 4, 11, 64])
def test_values_and_gradients_are_the_naive_ones(chunk):
    def fused(student):
        scores = token_scores(student, TEACHER, TARGETS, EVERY, HEAD, chunk)
        return scores.kl, scores.log_prob

    got, pull = jax.vjp(fused, STUDENT)
    want, pull_want = jax.vjp(naive, STUDENT)
    cotangent = tuple(jnp.asarray(RNG.normal(size=11), jnp.float32) for _ in range(2))
    for g, w in zip((*got, *pull(cotangent)), (*want, *pull_want(cotangent))):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5)


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    def loss(student):
        return token_scores(student, STUDENT, TARGETS, EVERY, HEAD, 4).kl

    assert not np.asarray(loss(STUDENT)).any()
    assert not np.asarray(jax.grad(lambda s: loss(s).sum())(STUDENT)).any()


def test_only_the_student_learns():
    def loss(teacher, head):
        scores = token_scores(STUDENT, teacher, TARGETS, EVERY, head, 4)
        return (scores.kl + scores.log_prob).sum()

    gradients = jax.grad(loss, argnums=(0, 1))(TEACHER, HEAD)
    assert not any(np.asarray(g).any() for g in gradients)


def test_masked_out_tokens_may_hold_anything():
    # Of three chunks the first and last are mixed and the second is left out.
    mask = jnp.asarray([1, 1, 0, 1, 0, 0, 0, 0, 1, 1, 0], bool)
    student, teacher = (jnp.where(mask[:, None], x, jnp.nan) for x in (STUDENT, TEACHER))

    def loss(student):
        scores = token_scores(student, teacher, TARGETS, mask, HEAD, 4)
        kl, count = masked_sum(scores.kl, mask)
        return kl + masked_sum(scores.log_prob, mask)[0], (count, scores)

    def want(student):
        kl, log_prob = naive(student)
        return (kl + log_prob)[mask].sum()

    (total, (count, scores)), gradient = jax.value_and_grad(loss, has_aux=True)(student)
    total_want, gradient_want = jax.value_and_grad(want)(STUDENT)
    np.testing.assert_allclose(total, total_want, rtol=1e-5)
    assert count == 5
    np.testing.assert_allclose(gradient[mask], gradient_want[mask], rtol=1e-4, atol=1e-5)
    assert not scores.kl[4:8].any() and not scores.log_prob[4:8].any()
    assert not gradient[4:8].any()


def test_narrow_operands_stay_near():
    narrow = token_scores(STUDENT, TEACHER, TARGETS, EVERY, HEAD.astype(jnp.bfloat16))
    kl, log_prob = naive(STUDENT)
    assert narrow.kl.dtype == narrow.log_prob.dtype == jnp.float32
    np.testing.assert_allclose(narrow.kl, kl, rtol=0.1, atol=0.1)
    np.testing.assert_allclose(narrow.log_prob, log_prob, rtol=0.1, atol=0.1)
