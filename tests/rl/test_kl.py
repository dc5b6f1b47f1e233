"""k1, k2, k3: hand values, and their values and gradients in expectation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.rl import kl
from sleep_jax.rl.kl import KINDS

kl_estimate = jax.jit(kl.kl_estimate, static_argnames="kind")

ONE = jnp.ones((1, 2))
LOGITS = jnp.array([0.3, -1.0, 0.7, 0.0, 1.5])
REFERENCE = jax.nn.log_softmax(jnp.array([1.0, 0.2, -0.5, 0.4, 0.0]))


@pytest.mark.parametrize(
    ("kind", "want"), [("k1", [0.5, -2.0]), ("k2", [0.125, 2.0]), ("k3", [0.1065307, 4.389056])]
)
def test_kl_estimate_by_hand(kind, want):
    log_probs, reference = jnp.array([[-1.0, -3.0]]), jnp.array([[-1.5, -1.0]])
    np.testing.assert_allclose(kl_estimate(log_probs, reference, ONE, kind=kind), [want], rtol=1e-6)


def divergence(p, q):
    return jnp.sum(jnp.exp(p) * (p - q))


def test_kl_estimate_in_expectation():
    p = jax.nn.log_softmax(LOGITS)
    mean = {k: np.sum(np.exp(p) * kl_estimate(p, REFERENCE, jnp.ones(5), kind=k)) for k in KINDS}
    for kind in ("k1", "k3"):
        np.testing.assert_allclose(mean[kind], divergence(p, REFERENCE), rtol=1e-5)
    assert abs(mean["k2"] / mean["k1"] - 1) > 0.05


@pytest.mark.parametrize(
    ("kind", "objective"),
    [
        ("k1", lambda p: 0.0 * p[0]),
        ("k2", lambda p: divergence(p, REFERENCE)),
        ("k3", lambda p: divergence(REFERENCE, p)),
    ],
)
def test_kl_estimate_gradients_in_expectation(kind, objective):
    weights = jax.nn.softmax(LOGITS)  # no gradient flows through sampling

    def loss(logits):
        return jnp.sum(
            weights * kl_estimate(jax.nn.log_softmax(logits), REFERENCE, jnp.ones(5), kind=kind)
        )

    want = jax.grad(lambda logits: objective(jax.nn.log_softmax(logits)))(LOGITS)
    np.testing.assert_allclose(jax.grad(loss)(LOGITS), want, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_kl_estimate_gradient_is_0_for_masked_tokens_and_the_reference(kind):
    log_probs, reference = jnp.array([[-1.0, jnp.nan]]), jnp.array([[-1.5, -jnp.inf]])

    def loss(log_probs, reference):
        return jnp.sum(kl_estimate(log_probs, reference, jnp.array([[1, 0]]), kind=kind))

    value, (policy_grad, reference_grad) = jax.value_and_grad(loss, argnums=(0, 1))(
        log_probs, reference
    )
    assert np.isfinite(value) and not np.asarray(reference_grad).any()
    assert policy_grad[0, 0] != 0 and policy_grad[0, 1] == 0


def test_k3_of_an_impossible_token_is_finite():
    value, gradient = jax.value_and_grad(
        lambda x: jnp.sum(kl_estimate(x, jnp.array([[-1.0]]), jnp.ones((1, 1))))
    )(jnp.array([[-1e4]]))
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_kl_estimate_rejects_an_unknown_kind():
    with pytest.raises(ValueError, match="kind='k4'; choose from k1, k2, k3"):
        kl_estimate(ONE, ONE, ONE, kind="k4")
