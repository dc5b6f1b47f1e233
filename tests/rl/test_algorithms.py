"""Every algorithm against its formula in NumPy loops, as in TRL's trainers, and its gradient
against finite differences of that formula."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.rl.aggregation import aggregate
from sleep_jax.rl.algorithms import ALGORITHMS, Surrogate, surrogate
from sleep_jax.rl.importance import truncated_weights
from sleep_jax.rl.kl import kl_estimate

GROUPS, SIZE, TIME, LENGTH = 3, 4, 6, 9
CHANGES = {"dr_grpo": {"length": LENGTH}}
# How far the policies are apart: GSPO's clip range is a thousandth of the others'.
NOISE = {"gspo": 1e-3, "rloo": 0.1, "reinforce": 0.1}


def random_case(noise=0.3, seed=0):
    rng = np.random.default_rng(seed)
    shape = (GROUPS * SIZE, TIME)
    rewards = rng.random((GROUPS, SIZE)).round(1)
    rewards[1] = 0.7  # a tied group
    lengths = rng.integers(1, TIME + 1, len(np.zeros(shape)))
    mask = np.arange(TIME) < lengths[:, None]
    old = rng.normal(-2, 0.5, shape)
    return old + rng.normal(0, noise, shape), old, rewards, mask


def advantages_by_hand(name, rewards):
    out = np.zeros_like(rewards)
    for g in range(GROUPS):
        for i in range(SIZE):
            if name == "reinforce":
                out[g, i] = rewards[g, i] - rewards.mean()
            elif name == "ppo":  # the value head is the baseline
                out[g, i] = rewards[g, i]
            elif name == "rloo":
                out[g, i] = rewards[g, i] - np.delete(rewards[g], i).mean()
            else:
                out[g, i] = rewards[g, i] - rewards[g].mean()
                if name not in ("group", "dr_grpo"):
                    out[g, i] /= rewards[g].std(ddof=1) + 1e-4
    return out.reshape(-1)


def loss_by_hand(name, new, old, rewards, mask):
    """The loss of TRL's RLOOTrainer (rloo, reinforce) and GRPOTrainer (the others), by loops."""
    advantages = advantages_by_hand(name, rewards)
    low, high = {"dapo": (0.2, 0.28), "gspo": (3e-4, 4e-4), "reinforce": (math.inf,) * 2}.get(
        name, (0.2, 0.2)
    )

    def surrogate(ratio, a):
        return min(ratio * a, min(max(ratio, 1 - low), 1 + high) * a)

    total, tokens, sequences = 0.0, 0, 0
    for i, a in enumerate(advantages):
        if name == "dapo" and len(set(rewards[i // SIZE])) == 1:
            continue
        steps = np.flatnonzero(mask[i])
        gaps = [new[i, t] - old[i, t] for t in steps]
        by_token = sum(surrogate(math.exp(gap), a) for gap in gaps)
        if name in ("rloo", "reinforce"):
            total -= surrogate(math.exp(sum(gaps)), a)
        elif name == "gspo":
            total -= surrogate(math.exp(sum(gaps) / len(gaps)), a)
        elif name == "grpo":
            total -= by_token / len(gaps)
        else:
            total -= by_token
        tokens += len(gaps)
        sequences += 1
    shares = {"group": tokens, "dapo": tokens, "ppo": tokens, "dr_grpo": sequences * LENGTH}
    return total / shares.get(name, sequences)


def differences(function, x, step=1e-6):
    out = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        offset = np.zeros_like(x)
        offset[at] = step
        out[at] = (function(x + offset) - function(x - offset)) / (2 * step)
    return out


def mean_loss(name, new, old, rewards, mask, **options):
    algorithm = surrogate(name, **CHANGES.get(name, {}))
    advantages, tied = algorithm.advantages(rewards)
    mask = algorithm.learning_mask(mask, tied, jnp.ones(len(mask), bool))
    (total, count), metrics = algorithm.loss(new, old, advantages.reshape(-1), mask, **options)
    return total / jnp.maximum(count, 1), metrics


grad = jax.jit(jax.value_and_grad(mean_loss, argnums=1, has_aux=True), static_argnums=0)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_surrogate_loss_and_gradient_equal_the_formula(name):
    new, old, rewards, mask = random_case(NOISE.get(name, 0.3))
    (value, metrics), gradient = grad(name, *map(jnp.float32, (new, old, rewards)), mask)
    want = loss_by_hand(name, new, old, rewards, mask)
    np.testing.assert_allclose(value, want, rtol=2e-5, atol=1e-7)
    want = differences(lambda x: loss_by_hand(name, x, old, rewards, mask), new)
    np.testing.assert_allclose(gradient, want, rtol=1e-3, atol=1e-6)
    # Some tokens are clipped, not all.
    assert (name == "reinforce") == (metrics["clip_fraction"] == 0)
    assert metrics["clip_fraction"] < 0.7


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"reinforce", "ppo"}))
def test_surrogate_gradient_of_tied_groups_is_0(name):
    new, old, rewards, mask = map(jnp.asarray, random_case())
    _, gradient = grad(name, new, old, rewards, mask)
    assert not np.asarray(gradient[SIZE : 2 * SIZE]).any() and np.asarray(gradient[:SIZE]).any()
    (value, _), gradient = grad(name, new, old, jnp.full_like(rewards, 0.1), mask)
    assert not np.asarray(gradient).any() and value == 0


@pytest.mark.parametrize("name", ALGORITHMS)
def test_surrogate_first_update_is_on_policy_and_lowers_the_loss(name):
    # The first is on-policy: nothing is clipped, and None stands for the policy's own log-probs.
    new, _, rewards, mask = map(jnp.asarray, random_case())
    first, implied = (grad(name, new, old, rewards, mask) for old in (new, None))
    jax.tree.map(np.testing.assert_array_equal, first, implied)
    ((value, metrics), gradient) = first
    assert metrics["ratio"] == metrics["ratio_max"] == 1 and metrics["clip_fraction"] == 0
    (after, _), _ = grad(name, new - 0.05 * gradient, new, rewards, mask)
    assert after < value


def test_kl_penalty_and_importance_weights_as_in_trl():
    # (min(...) * importance_sampling_ratio + beta * k3), then GRPO's mean; by loops.
    new, old, rewards, mask = random_case()
    rng = np.random.default_rng(1)
    reference, sampler = (old + rng.normal(0, 0.5, old.shape) for _ in range(2))
    algorithm, beta = surrogate("grpo"), 0.04
    weights, _ = truncated_weights(jnp.asarray(old), jnp.asarray(sampler), mask, cap=1.3)
    advantages, _ = algorithm.advantages(jnp.asarray(rewards))
    (total, count), _ = algorithm.loss(
        jnp.asarray(new), old, advantages.reshape(-1), mask, weights=weights
    )
    penalty, _ = aggregate(
        kl_estimate(jnp.asarray(new), jnp.asarray(reference), mask),
        mask,
        aggregation=algorithm.aggregation,
    )
    want = 0.0
    for i, a in enumerate(advantages_by_hand("grpo", rewards)):
        row = []
        for t in np.flatnonzero(mask[i]):
            ratio, back = math.exp(new[i, t] - old[i, t]), reference[i, t] - new[i, t]
            gain = min(ratio * a, min(max(ratio, 0.8), 1.2) * a)
            gain *= min(math.exp(old[i, t] - sampler[i, t]), 1.3)
            row.append(-gain + beta * (math.exp(back) - back - 1))
        want += sum(row) / len(row) / len(mask)
    np.testing.assert_allclose((total + beta * penalty) / count, want, rtol=2e-5)
    algorithm = surrogate("grpo", kl_coef=beta, importance_cap=1.3)
    (total, count), metrics = algorithm.loss(
        jnp.asarray(new),
        old,
        advantages.reshape(-1),
        mask,
        sampler_log_probs=jnp.asarray(sampler),
        reference_log_probs=jnp.asarray(reference),
    )
    np.testing.assert_allclose(total / count, want, rtol=2e-5)
    back = (reference - new)[mask]
    np.testing.assert_allclose(metrics["penalty"], np.mean(np.exp(back) - back - 1), rtol=1e-4)
    gap = np.abs(old - sampler)[mask].mean()
    np.testing.assert_allclose(metrics["importance_gap"], gap, rtol=1e-4)


def test_k1_penalty_is_subtracted_from_the_reward():
    log_probs = np.array([[-1.0, -2.0, -9.0], [-3.0, -1.0, -1.0]])
    reference = np.array([[-2.0, -2.5, -1.0], [-1.0, -1.0, -1.0]])
    mask = np.array([[1, 1, 0], [1, 1, 1]], bool)
    penalised = surrogate("rloo", kl_estimator="k1", kl_coef=0.1)
    got = penalised.penalised_reward(np.array([1.0, 0.5]), log_probs, reference, mask)
    np.testing.assert_allclose(got, [1 - 0.1 * 1.5, 0.5 + 0.1 * 2], rtol=1e-6)
    for other in (surrogate("rloo"), surrogate("rloo", kl_coef=0.1)):
        assert other.penalised_reward(mask, None, None, None) is mask
    # It is not part of the loss.
    args = log_probs, log_probs, np.array([1.0, -1.0]), mask
    (value, _), metrics = penalised.loss(*args, reference_log_probs=reference)
    np.testing.assert_allclose(value, surrogate("rloo").loss(*args)[0][0])
    np.testing.assert_allclose(metrics["penalty"], (1.5 - 2) / 5, rtol=1e-6)


@pytest.mark.parametrize("name", ["group", "grpo", "dr_grpo"])
def test_entropy_bonus_is_aggregated_like_the_surrogate(name):
    new, old, _, mask = random_case()
    entropy = np.random.default_rng(2).random(new.shape)
    args = jnp.asarray(new), old, np.zeros(len(new)), mask
    changes = CHANGES.get(name, {})
    (total, count), _ = surrogate(name, entropy_coef=0.5, **changes).loss(*args, entropy=entropy)
    per = {
        "group": entropy[mask].mean(),
        "grpo": np.mean([row[on].mean() for row, on in zip(entropy, mask)]),
        "dr_grpo": entropy[mask].sum() / len(new) / LENGTH,
    }
    np.testing.assert_allclose(total / count, -0.5 * per[name], rtol=1e-5)


@pytest.mark.parametrize("name", ["reinforce", "rloo"])
def test_importance_weights_are_by_token_for_product_ratios(name):
    """With a sampler that is 1.5 times as likely at each of 96 tokens the product is 1e-17."""
    old, mask = np.full((2, 96), -2.0), np.ones((2, 96), bool)
    sampler = old + np.log(1.5)
    args = jnp.asarray(old), old, np.array([1.0, -1.0]), mask
    _, metrics = surrogate(name, importance_cap=2.0).loss(*args, sampler_log_probs=sampler)
    np.testing.assert_allclose(metrics["importance_weight"], 1 / 1.5, rtol=1e-5)


def test_learning_mask_by_hand():
    mask = jnp.ones((4, 2))
    tied, finished = jnp.array([True, False]), jnp.array([True, True, False, True])
    for options, want in (
        ({}, [1, 1, 1, 1]),
        ({"skip_tied": True}, [0, 0, 1, 1]),
        ({"mask_truncated_completions": True}, [1, 1, 0, 1]),
        ({"skip_tied": True, "mask_truncated_completions": True}, [0, 0, 0, 1]),
    ):
        got = Surrogate(**options).learning_mask(mask, tied, finished)
        np.testing.assert_array_equal(got, np.array([want, want], bool).T)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gpro", {}, "estimator='gpro'; choose from group, reinforce, rloo, grpo, dr_grpo"),
        ("grpo", {"clip_hi": 0.3}, "grpo has no choice 'clip_hi'; choose from name, baseline"),
        ("grpo", {"baseline": "median"}, "baseline='median'; choose from mean, loo, batch, none"),
        ("grpo", {"scale": "mad"}, "scale='mad'; choose from none, std, batch"),
        ("grpo", {"level": "word"}, "level='word'; choose from token, sequence, product"),
        ("grpo", {"aggregation": "sum"}, "aggregation='sum'; choose from token, sequence, const"),
        ("grpo", {"clip": 0.0}, "clip=0.0; give a distance"),
        ("dapo", {"clip_high": -0.1}, "clip_high=-0.1; give a distance"),
        ("dr_grpo", {}, "length=None; aggregation='constant' divides by it"),
        ("reinforce", {"skip_tied": True}, "skip_tied=True with baseline='batch'"),
        ("grpo", {"kl_estimator": "k4"}, "kl_estimator='k4'; choose from k1, k2, k3"),
        ("grpo", {"kl_coef": -0.1}, "seeding.kl_coef=-0.1; give a number at least 0"),
        (
            "grpo",
            {"entropy_coef": math.inf},
            "seeding.entropy_coef=inf; give a number at least 0",
        ),
        ("ppo", {"gae": 1.5}, "gae=1.5; lambda of the advantage estimates"),
        ("ppo", {"baseline": "mean"}, "gae=0.95 with baseline='mean'; values are the baseline"),
        (
            "ppo",
            {"value_learning_rate": 0.0},
            "seeding.value_learning_rate=0.0; give a number above 0",
        ),
        (
            "grpo",
            {"importance_cap": -1.0},
            "seeding.importance_cap=-1.0; give 0, or a number above 0",
        ),
    ],
)
def test_surrogate_rejects_invalid_choices(name, changes, message):
    with pytest.raises(ValueError, match=message):
        surrogate(name, **changes)
