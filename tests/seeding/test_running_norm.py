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
    # Means: 4; 0.5 * 4 + 0.5 * 2 = 3; 0.5 * 3 + 0.5 * 6 = 4.5; the limit is then 9.
    got, state = norms_after(clip_by_running_norm(2.0, decay=0.5), [4, 2, 30, 30])
    np.testing.assert_allclose(got, [4, 2, 6, 9], rtol=1e-6)
    np.testing.assert_allclose(state.mean, 6.75, rtol=1e-6)


def test_running_norm_follows_a_lasting_rise():
    got, _ = norms_after(clip_by_running_norm(2.0, decay=0.9), [1] + 40 * [20])
    want = np.minimum(2 * 1.1 ** np.arange(40), 20)  # 10 % an update
    np.testing.assert_allclose(got[1:], want, rtol=1e-5)


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
