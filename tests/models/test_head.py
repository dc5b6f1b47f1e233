"""Log-probabilities a chunk at a time: value, gradient, and what a mask keeps out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from confident_head import CERTAIN, near_certain, softmax

from sleep_jax.models.head import (
    map_chunks,
    masked_sum,
    token_log_probs,
    token_log_probs_with_head,
)

RNG = np.random.default_rng(0)
HIDDEN = jnp.asarray(RNG.normal(size=(11, 6)), jnp.float32)
HEAD = jnp.asarray(RNG.normal(size=(6, 13)), jnp.float32)
TARGETS = jnp.asarray(RNG.integers(0, 13, 11), jnp.int32)
EVERY = jnp.ones(11, bool)
WEIGHTS = jnp.asarray(RNG.normal(size=11), jnp.float32)


def naive(hidden):
    log_p = jax.nn.log_softmax(hidden @ HEAD)
    return jnp.take_along_axis(log_p, TARGETS[:, None], -1)[:, 0]


@pytest.mark.parametrize("chunk", [1, 3, 4, 11, 64])
def test_token_log_probs_equal_log_softmax_with_gradients(chunk):
    def fused(hidden):
        return token_log_probs(hidden, TARGETS, EVERY, HEAD, chunk)

    got, pull = jax.vjp(fused, HIDDEN)
    want, pull_want = jax.vjp(naive, HIDDEN)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(pull(WEIGHTS)[0], pull_want(WEIGHTS)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [4, 64])
def test_token_log_probs_with_head_have_its_gradient_too(chunk):
    def fused(hidden, head):
        return token_log_probs_with_head(hidden, TARGETS, EVERY, head, chunk)

    def plain(hidden, head):
        log_p = jax.nn.log_softmax(hidden @ head)
        return jnp.take_along_axis(log_p, TARGETS[:, None], -1)[:, 0]

    got, pull = jax.vjp(fused, HIDDEN, HEAD)
    want, pull_want = jax.vjp(plain, HIDDEN, HEAD)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    for x, y in zip(pull(WEIGHTS), pull_want(WEIGHTS)):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_token_log_probs_by_hand():
    # Two tokens, three words: p = (1/2, 1/4, 1/4) and (1/6, 2/6, 3/6).
    hidden = jnp.log(jnp.array([[2.0, 1.0, 1.0], [1.0, 2.0, 3.0]]))
    got = token_log_probs(hidden, jnp.array([0, 2]), jnp.ones(2, bool), jnp.eye(3))
    np.testing.assert_allclose(got, np.log([0.5, 0.5]), rtol=1e-6)
    gradient = jax.grad(
        lambda h: token_log_probs(h, jnp.array([0, 2]), jnp.ones(2, bool), jnp.eye(3)).sum()
    )(hidden)
    np.testing.assert_allclose(
        gradient, [[1 / 2, -1 / 4, -1 / 4], [-1 / 6, -1 / 3, 1 / 2]], atol=1e-6
    )


def test_token_log_probs_ignore_values_outside_the_mask():
    mask = jnp.asarray([1, 1, 0, 1, 0, 0, 0, 0, 1, 1, 0], bool)  # chunks 0 and 2 of three are mixed
    dirty = jnp.where(mask[:, None], HIDDEN, jnp.nan)

    def loss(hidden):
        total, count = masked_sum(token_log_probs(hidden, TARGETS, mask, HEAD, 4) * WEIGHTS, mask)
        return total, count

    (total, count), gradient = jax.value_and_grad(loss, has_aux=True)(dirty)
    want, want_gradient = jax.value_and_grad(lambda h: (naive(h) * WEIGHTS)[mask].sum())(HIDDEN)
    np.testing.assert_allclose(total, want, rtol=1e-5)
    assert count == 5
    np.testing.assert_allclose(gradient[mask], want_gradient[mask], rtol=1e-4, atol=1e-5)


def test_map_chunks_skips_chunks_outside_the_mask():
    mask = jnp.arange(11) >= 8
    got = np.asarray(token_log_probs(HIDDEN, TARGETS, mask, HEAD, 4))
    assert not got[:8].any() and (got[8:] < 0).all()
    ran = []
    jax.block_until_ready(
        map_chunks(
            lambda x: jax.debug.callback(lambda x: ran.append(x.tolist()), x) or x,
            (jnp.arange(11.0),),
            mask,
            4,
        )
    )
    jax.effects_barrier()
    assert ran == [[8, 9, 10, 0]]


def test_masked_sum_by_hand():
    total, count = masked_sum(
        jnp.array([1.0, jnp.nan, 3.0, jnp.inf]), jnp.array([1, 0, 1, 0], bool)
    )
    assert (total, count) == (4.0, 2.0)


@pytest.mark.parametrize("p", [0.9, 0.986, 0.998, 0.99999])
def test_token_log_probs_gradient_is_precise_near_certainty(p):
    """Of a bfloat16 head, against float64."""
    hidden, head = near_certain(p)
    target, every = jnp.array([CERTAIN]), jnp.ones(1, bool)
    gradient = jax.grad(lambda h: token_log_probs(h[None], target, every, head)[0])(hidden)
    q = softmax(hidden, head)
    assert abs((1 - q[CERTAIN]) / (1 - p) - 1) < 0.1
    want = (np.eye(len(q))[CERTAIN] - q) @ np.asarray(head, np.float64).T
    assert np.linalg.norm(gradient - want) < 0.01 * np.linalg.norm(want)
