"""Rotary positions; attention itself is held against transformers in test_parity."""

import jax.numpy as jnp
import numpy as np

from sleep_jax.models.attention import rope_frequencies, rotate
from sleep_jax.models.config import RopeScaling

RNG = np.random.default_rng(0)


def test_rotation_by_hand():
    # Head width 4, pairs (x0, x2) and (x1, x3); frequencies pi/2 and 0 at position 1.
    x = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    y = rotate(x, jnp.array([[1]]), jnp.array([np.pi / 2, 0.0]))
    np.testing.assert_allclose(y.ravel(), [-3, 2, 1, 4], atol=1e-6)


def test_scores_depend_on_the_distance_alone(cfg):
    q, k = (jnp.asarray(RNG.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))
    frequencies = rope_frequencies(cfg)

    def score(at, other):
        turned = (rotate(x, jnp.array([[p]]), frequencies) for x, p in ((q, at), (k, other)))
        return float(jnp.vdot(*turned))

    np.testing.assert_allclose(score(9, 5), score(104, 100), rtol=1e-4)
    assert abs(score(9, 5) - score(9, 4)) > 1e-2


def test_llama3_scaling_by_hand(cfg):
    plain = np.asarray(rope_frequencies(cfg.replace(head_dim=4, rope_theta=100.0)))
    np.testing.assert_allclose(plain, [1.0, 0.1], rtol=1e-6)  # wavelengths 6.28 and 62.8

    def scaled(original):
        scaling = RopeScaling(8.0, 1.0, 4.0, original)
        scaled_cfg = cfg.replace(head_dim=4, rope_theta=100.0, rope_scaling=scaling)
        return np.asarray(rope_frequencies(scaled_cfg)) / plain

    # Kept where original / wavelength > high = 4, divided by 8 where it is < low = 1.
    np.testing.assert_allclose(scaled(32), [1, 1 / 8], rtol=1e-6)
    # Between them: original / wavelength = 2.5 is half way, so half 1 and half 1 / 8.
    np.testing.assert_allclose(scaled(5.0 * np.pi), [(1 + 1 / 8) / 2, 1 / 8], rtol=1e-5)
