"""Clipping by the norms of earlier gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.seeding.running_norm import clip_by_running_norm


def norms_after(clip, norms):
    """Norms of gradients of given norms, after clipping each in turn; and the last state."""
    state, out = clip.init({"a": jnp.zeros(2)}), []
    for norm in norms:  # (0.6, 0.8) is a unit vector
        grads = {"a": jnp.array([0.6, 0.8]) * norm}
        clipped, state = clip.update(grads, state)
        out.append(float(jnp.linalg.norm(clipped["a"])))
        np.testing.assert_allclose(clipped["a"], np.array([0.6, 0.8]) * out[-1], rtol=1e-6)
    return out, state


def test_running_norm_by_hand():
    # Means: 4; 0.5 * 4 + 0.5 * 2 = 3; 0.5 * 3 + 0.5 * 30 = 16.5; the last limit is 33.
    got, state = norms_after(clip_by_running_norm(2.0, decay=0.5), [4, 2, 30, 50])
    np.testing.assert_allclose(got, [4, 2, 6, 33], rtol=1e-6)
    np.testing.assert_allclose(state.mean, 33.25, rtol=1e-6)


def test_running_norm_follows_a_lasting_rise():
    got, _ = norms_after(clip_by_running_norm(2.0), [1] + 10 * [20])
    mean = 20 - 19 * 0.9 ** np.arange(10)  # of 1 before the rise
    np.testing.assert_allclose(got[1:], np.minimum(2 * mean, 20), rtol=1e-5)
    assert got[1] == 2 and got[7] < got[8] == 20


def test_running_norm_ignores_gradients_of_0():
    clip = clip_by_running_norm(2.0)
    got, _ = norms_after(clip, [0, 0, 3, 0, 0, 100])
    np.testing.assert_allclose(got, [0, 0, 3, 0, 0, 6], rtol=1e-6)


def test_running_norm_keeps_small_gradients_to_the_bit():
    clip = clip_by_running_norm(2.0)
    grads = jnp.array(np.random.default_rng(0).normal(size=100), jnp.float32)
    _, state = clip.update(grads, clip.init(grads))
    kept, _ = jax.jit(clip.update)(1.9 * grads, state)
    np.testing.assert_array_equal(kept, 1.9 * grads)
