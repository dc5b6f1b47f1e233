"""Advantages and the clipped loss: hand values, a numpy reference, gradient direction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.rl.policy_gradient import group_advantages, policy_gradient_loss

REWARDS = jnp.array([[1.0, 0.0, 0.0, 1.0], [0.2, 0.4, 0.6, 0.8], [0.3, 0.3, 0.3, 0.3]])


def test_mean_baseline_by_hand():
    advantages, tied = jax.jit(group_advantages)(REWARDS)
    np.testing.assert_allclose(advantages[0], [0.5, -0.5, -0.5, 0.5], atol=1e-7)
    np.testing.assert_allclose(advantages[1], [-0.3, -0.1, 0.1, 0.3], atol=1e-6)
    np.testing.assert_array_equal(tied, [False, False, True])


def test_leave_one_out_baseline():
    advantages, _ = group_advantages(REWARDS, baseline="loo")
    r = np.asarray(REWARDS)
    for g in range(2):
        want = [r[g, i] - np.delete(r[g], i).mean() for i in range(4)]
        np.testing.assert_allclose(advantages[g], want, atol=1e-6)


def test_std_scale_by_hand():
    advantages, _ = group_advantages(REWARDS, scale="std")
    # Sample std of (1, 0, 0, 1) is sqrt(1 / 3).
    want = 0.5 / (np.sqrt(1 / 3) + 1e-4)
    np.testing.assert_allclose(advantages[0], [want, -want, -want, want], rtol=1e-5)


@pytest.mark.parametrize("scale", ["none", "std"])
@pytest.mark.parametrize("baseline", ["mean", "loo"])
def test_tied_groups_give_exact_zeros(scale, baseline):
    # The float32 mean of equal rewards need not equal them; seven times 0.1 is such a case.
    rewards = jnp.full((5, 7), 0.1) * jnp.arange(1.0, 6.0)[:, None]
    advantages, tied = group_advantages(rewards, scale=scale, baseline=baseline)
    assert not np.asarray(advantages).any() and np.asarray(tied).all()


def test_without_baseline_the_reward_stays():
    advantages, tied = group_advantages(REWARDS, baseline="none")
    np.testing.assert_array_equal(advantages, REWARDS)
    np.testing.assert_array_equal(tied, [False, False, True])


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 4), {"scale": "mad"}, "scale='mad'"),
        ((2, 4), {"baseline": "median"}, "baseline='median'"),
        ((2, 4), {"scale": "std", "baseline": "none"}, "needs a baseline"),
        ((2, 1), {"baseline": "loo"}, "group size 1"),
    ],
)
def test_options_that_make_no_sense_are_rejected(shape, options, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(jnp.zeros(shape), **options)


def random_case(seed=0, batch=5, time=7):
    rng = np.random.default_rng(seed)
    old = rng.normal(-2, 0.5, (batch, time)).astype(np.float32)
    new = (old + rng.normal(0, 0.3, (batch, time))).astype(np.float32)
    return new, old, rng.normal(size=batch).astype(np.float32), rng.random((batch, time)) < 0.7


@pytest.mark.parametrize("clip_high", [None, 0.28])
def test_matches_numpy_reference(clip_high):
    new, old, advantages, mask = random_case()
    (total, denominator), metrics = jax.jit(
        policy_gradient_loss, static_argnames=("clip", "clip_high")
    )(new, old, advantages, mask, clip=0.2, clip_high=clip_high)
    high, want, clipped, kl = clip_high or 0.2, 0.0, 0, 0.0
    for b, t in zip(*np.nonzero(mask)):
        ratio, a = np.exp(new[b, t] - old[b, t]), advantages[b]
        gain, bounded = ratio * a, min(max(ratio, 0.8), 1 + high) * a
        want -= min(gain, bounded)
        clipped += bounded < gain
        kl += ratio - 1 - (new[b, t] - old[b, t])
    np.testing.assert_allclose(total, want, rtol=1e-5)
    assert denominator == mask.sum()
    assert 0 < clipped < mask.sum()
    np.testing.assert_allclose(metrics["clip_fraction"], clipped / mask.sum(), rtol=1e-6)
    np.testing.assert_allclose(metrics["kl"], kl / mask.sum(), rtol=1e-4)


def test_by_hand():
    # Ratios 1.5 and 0.5: a gain is capped at 1.2 A, a loss is floored at 0.8 A.
    log_probs = jnp.log(jnp.array([[1.5, 0.5], [1.5, 0.5]]))
    old = jnp.zeros((2, 2))
    (total, denominator), metrics = policy_gradient_loss(
        log_probs, old, jnp.array([1.0, -2.0]), jnp.ones((2, 2))
    )
    # Row 0: min(1.5, 1.2) + min(0.5, 0.8). Row 1: min(-3, -2.4) + min(-1, -1.6).
    np.testing.assert_allclose(total, -(1.2 + 0.5 - 3.0 - 1.6), rtol=1e-6)
    assert denominator == 4
    np.testing.assert_allclose(metrics["clip_fraction"], 0.5)
    np.testing.assert_allclose(metrics["ratio"], 1.0, rtol=1e-6)


def test_on_policy_gradient_is_reinforce():
    new, _, advantages, mask = random_case()

    def loss(log_probs):
        old = jax.lax.stop_gradient(log_probs)
        return policy_gradient_loss(log_probs, old, advantages, mask)[0][0]

    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(new)), -advantages[:, None] * mask)


def test_only_log_probs_get_a_gradient():
    new, old, advantages, mask = random_case()
    grads = jax.grad(lambda o, a: policy_gradient_loss(new, o, a, mask)[0][0], argnums=(0, 1))(
        jnp.asarray(old), jnp.asarray(advantages)
    )
    assert not any(np.asarray(g).any() for g in grads)


def test_positive_advantage_raises_the_log_prob_of_what_was_sampled():
    logits, tokens = jnp.zeros((2, 3, 4)), jnp.array([[1, 2, 0], [3, 1, 1]])

    def log_probs(logits):
        return jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=2)[..., 0]

    def loss(logits):
        lp = log_probs(logits)
        old = jax.lax.stop_gradient(lp)
        (total, n), _ = policy_gradient_loss(lp, old, jnp.array([1.0, -1.0]), jnp.ones((2, 3)))
        return total / n

    change = log_probs(logits - jax.grad(loss)(logits)) - log_probs(logits)
    assert (np.asarray(change[0]) > 0).all() and (np.asarray(change[1]) < 0).all()


def test_masked_positions_may_hold_anything():
    new, old, advantages, mask = random_case()
    mask[3] = False
    bad = np.where(mask, 0.0, np.nan)
    bad[0][~mask[0]] = -np.inf
    dirty_advantages = np.where(mask.any(1), advantages, np.nan)

    def loss(lp, old, advantages):
        (total, denominator), metrics = policy_gradient_loss(lp, old, advantages, mask)
        return total, (denominator, metrics)

    clean = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(new), old, advantages)
    dirty = jax.value_and_grad(loss, has_aux=True)(
        jnp.asarray(new + bad), old + bad, dirty_advantages
    )
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


def test_empty_mask_gives_zero_over_zero_tokens():
    new, old, advantages, mask = random_case()
    (total, denominator), metrics = policy_gradient_loss(new, old, advantages, np.zeros_like(mask))
    assert total == 0 and denominator == 0
    assert all(np.isfinite(v) for v in metrics.values())
