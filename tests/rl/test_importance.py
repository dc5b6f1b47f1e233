"""Log ratios by token and sequence, in rows and packed; truncated importance weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.rl import importance
from sleep_jax.rl.importance import LEVELS

log_ratio = jax.jit(importance.log_ratio, static_argnames="level")
truncated_weights = jax.jit(importance.truncated_weights, static_argnames="level")

NEW = jnp.log(jnp.array([[2.0, 0.5, 4.0], [3.0, 1.0, 1.0]]))
OLD = jnp.zeros((2, 3))
MASK = jnp.array([[1, 0, 1], [1, 1, 1]], bool)


@pytest.mark.parametrize(
    ("level", "want"),
    [
        ("token", [[2, 1, 4], [3, 1, 1]]),
        ("sequence", [[8**0.5, 1, 8**0.5], [3 ** (1 / 3)] * 3]),
        ("product", [[8, 1, 8], [3, 3, 3]]),
    ],
)
def test_log_ratio_levels_by_hand(level, want):
    ratio = jnp.exp(log_ratio(NEW, OLD, MASK, level=level))
    np.testing.assert_allclose(ratio, want, rtol=1e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_log_ratio_of_packed_rows_equals_that_of_rows(level):
    rows = log_ratio(NEW, OLD, MASK, level=level)
    # One row holds both, after padding; ids need be neither dense nor sorted.
    packed = [jnp.concatenate([jnp.zeros(3, x.dtype), x[0], x[1]])[None] for x in (NEW, OLD, MASK)]
    sequences = jnp.array([[8, 8, 8, 5, 5, 5, 2, 2, 2]])
    got = log_ratio(*packed, level=level, sequences=sequences)
    np.testing.assert_allclose(got[0, 3:].reshape(2, 3), rows, rtol=1e-6)
    assert not np.asarray(got[0, :3]).any()


@pytest.mark.parametrize("level", LEVELS)
def test_log_ratio_of_distant_policies_is_finite(level):
    far = jnp.full((2, 3), -1e4)
    for pair in ((NEW, far), (far, NEW)):
        assert np.isfinite(jnp.exp(log_ratio(*pair, MASK, level=level))).all()


def test_log_ratio_of_bfloat16_is_computed_in_float32():
    new, old = jnp.bfloat16(-10.0625), jnp.bfloat16(-0.1)
    got = log_ratio(new.reshape(1, 1), old.reshape(1, 1), jnp.ones((1, 1), bool))
    assert got.dtype == jnp.float32 and got[0, 0] == np.float32(new) - np.float32(old)


def test_truncated_weights_by_hand():
    weights, metrics = truncated_weights(NEW, OLD, MASK, cap=2.5)
    np.testing.assert_allclose(weights, [[2, 0, 2.5], [2.5, 1, 1]], rtol=1e-6)
    np.testing.assert_allclose(metrics["weight"], 9 / 5, rtol=1e-6)
    np.testing.assert_allclose(metrics["truncated"], 2 / 5, rtol=1e-6)
    np.testing.assert_allclose(metrics["gap"], np.log(2 * 4 * 3) / 5, rtol=1e-6)
    ratios = np.array([2, 4, 3, 1, 1])
    np.testing.assert_allclose(metrics["kl"], np.mean(ratios - 1 - np.log(ratios)), rtol=1e-5)


def test_truncated_weights_of_sequences():
    weights, metrics = truncated_weights(NEW, OLD, MASK, cap=5.0, level="product")
    np.testing.assert_allclose(weights, [[5, 0, 5], [3, 3, 3]], rtol=1e-6)
    np.testing.assert_allclose(metrics["truncated"], 2 / 5, rtol=1e-6)


def test_truncated_weights_ignore_nan_and_have_no_gradient():
    dirty = jnp.where(MASK, NEW, jnp.nan)
    got = truncated_weights(dirty, jnp.where(MASK, OLD, -jnp.inf), MASK)
    jax.tree.map(np.testing.assert_array_equal, got, truncated_weights(NEW, OLD, MASK))
    grads = jax.grad(
        lambda old, sampler: jnp.sum(truncated_weights(old, sampler, MASK)[0]), argnums=(0, 1)
    )(dirty, OLD)
    assert not any(np.asarray(s).any() for s in grads)


def test_truncated_weights_without_cap_change_the_expectation():
    # With no cap, E_sampler[w f] = E_old[f], term by term over a small vocabulary.
    sampler, old = (jax.nn.log_softmax(jnp.array([x])) for x in ([0.0, 1.0, 2.0], [1.0, -1.0, 0.5]))
    weights, _ = truncated_weights(old, sampler, jnp.ones((1, 3)), cap=np.inf)
    np.testing.assert_allclose(jnp.exp(sampler) * weights, jnp.exp(old), rtol=1e-6)


def test_log_ratio_rejects_an_unknown_level():
    with pytest.raises(ValueError, match="level='word'; choose from token, sequence, product"):
        log_ratio(NEW, OLD, MASK, level="word")
