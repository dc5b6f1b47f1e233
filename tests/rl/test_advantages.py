"""Advantages: hand values, tied groups, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.rl import advantages as under_test
from sleep_jax.rl.advantages import drop_tied

group_advantages = jax.jit(under_test.group_advantages, static_argnames=("scale", "baseline"))

REWARDS = jnp.array([[1.0, 0.0, 0.0, 1.0], [0.2, 0.4, 0.6, 0.8], [0.3, 0.3, 0.3, 0.3]])


def test_group_advantages_mean_baseline_by_hand():
    advantages, tied = group_advantages(REWARDS)
    np.testing.assert_allclose(advantages[0], [0.5, -0.5, -0.5, 0.5], atol=1e-7)
    np.testing.assert_allclose(advantages[1], [-0.3, -0.1, 0.1, 0.3], atol=1e-6)
    np.testing.assert_array_equal(tied, [False, False, True])


def test_group_advantages_leave_one_out_baseline():
    advantages, _ = group_advantages(REWARDS, baseline="loo")
    r = np.asarray(REWARDS)
    for g in range(2):
        want = [r[g, i] - np.delete(r[g], i).mean() for i in range(4)]
        np.testing.assert_allclose(advantages[g], want, atol=1e-6)


def test_group_advantages_std_scale_by_hand():
    advantages, _ = group_advantages(REWARDS, scale="std")
    # Sample std of (1, 0, 0, 1) is sqrt(1 / 3).
    want = 0.5 / (np.sqrt(1 / 3) + 1e-4)
    np.testing.assert_allclose(advantages[0], [want, -want, -want, want], rtol=1e-5)


@pytest.mark.parametrize("scale", ["none", "std"])
@pytest.mark.parametrize("baseline", ["mean", "loo"])
def test_group_advantages_of_tied_groups_are_exactly_0(scale, baseline):
    # The float32 mean of equal rewards need not equal them; seven times 0.1 is such a case.
    rewards = jnp.full((5, 7), 0.1) * jnp.arange(1.0, 6.0)[:, None]
    advantages, tied = group_advantages(rewards, scale=scale, baseline=baseline)
    assert not np.asarray(advantages).any() and np.asarray(tied).all()


def test_group_advantages_without_baseline_are_the_rewards():
    advantages, tied = group_advantages(REWARDS, baseline="none")
    np.testing.assert_array_equal(advantages, REWARDS)
    np.testing.assert_array_equal(tied, [False, False, True])


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 4), {"scale": "mad"}, "scale='mad'"),
        ((2, 4), {"baseline": "median"}, "baseline='median'"),
        ((2, 4), {"scale": "std", "baseline": "none"}, "needs a baseline"),
        ((2, 4), {"scale": "std", "baseline": "batch"}, "set scale='batch'"),
        ((2, 1), {"baseline": "loo"}, "group size 1"),
        ((1, 1), {"baseline": "batch"}, "1 entries"),
    ],
)
def test_group_advantages_rejects_invalid_options(shape, options, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(jnp.zeros(shape), **options)


def test_group_advantages_batch_baseline_and_scale_by_hand():
    rewards = jnp.array([[1.0, 0.0], [3.0, 4.0]])
    advantages, tied = group_advantages(rewards, baseline="batch")
    np.testing.assert_allclose(advantages, [[-1, -2], [1, 2]], atol=1e-7)
    assert not np.asarray(tied).any()
    std = np.sqrt(10 / 3)  # of (1, 0, 3, 4), with n - 1
    scaled, _ = group_advantages(rewards, baseline="batch", scale="batch")
    np.testing.assert_allclose(scaled, np.array([[-1, -2], [1, 2]]) / (std + 1e-4), rtol=1e-6)
    scaled, _ = group_advantages(rewards, scale="batch")
    np.testing.assert_allclose(scaled, np.array([[0.5, -0.5], [-0.5, 0.5]]) / (std + 1e-4))


@pytest.mark.parametrize("scale", ["none", "batch"])
def test_batch_baseline_is_0_for_tied_batches_but_not_for_tied_groups(scale):
    advantages, tied = group_advantages(REWARDS, baseline="batch", scale=scale)
    assert tied[2] and (np.asarray(advantages[2]) < 0).all()
    advantages, _ = group_advantages(jnp.full((5, 7), 0.1), baseline="batch", scale=scale)
    assert not np.asarray(advantages).any()


def test_drop_tied_masks_out_tied_groups():
    mask = jnp.array([[1, 1], [1, 0], [1, 1], [0, 0]])
    kept = drop_tied(mask, jnp.array([False, True]))
    np.testing.assert_array_equal(kept, [[True, True], [True, False], [False] * 2, [False] * 2])
    with pytest.raises(ValueError, match="4 rows, not a multiple of the 3 groups"):
        drop_tied(mask, jnp.zeros(3, bool))
