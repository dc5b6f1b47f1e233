"""Settings of a night's seeding: what the config builds, and what it rejects."""

import dataclasses

import pytest

from sleep_jax.config import default, read
from sleep_jax.rl.algorithms import surrogate
from sleep_jax.seeding.divergence import Divergence
from sleep_jax.seeding.objective import Objective


def build(**changes):
    c = default()
    c.seeding.update(changes)
    return read(c).seeding


def test_defaults():
    seeding = build()
    assert seeding.objective == Objective(surrogate=surrogate("group", length=32))
    assert seeding.imitation.surrogate == seeding.objective.surrogate
    assert seeding.objective_at(0) == seeding.objective_at(59) == seeding.objective
    assert seeding.num_iterations == 1


def test_max_target_length_above_max_length_is_rejected():
    assert build(max_length=256, max_target_length=256).shape.max_target_length == 256
    with pytest.raises(
        ValueError,
        match=r"seeding\.max_target_length=257 .* seeding\.max_length=256; lower the former",
    ):
        build(max_length=256, max_target_length=257)


def test_settings_reach_objective_imitation_and_surrogate():
    seeding = build(
        estimator="ppo",
        kl_estimator="k1",
        kl_coef=0.02,
        entropy_coef=0.01,
        importance_cap=2.0,
        value_learning_rate=3e-4,
        lam_as_probability=True,
        accumulate=2,
        num_iterations=3,
        prefix_beta=(2.0, 5.0),
        threshold=4.0,
        is_relative=False,
        unit="characters",
        rollout_temperature=0.7,
        rollout_top_p=0.9,
        max_consecutive_errors=2,
    )
    policy = surrogate(
        "ppo",
        length=32,
        kl_estimator="k1",
        kl_coef=0.02,
        entropy_coef=0.01,
        importance_cap=2.0,
        value_learning_rate=3e-4,
    )
    assert seeding.objective == Objective(surrogate=policy, lam_as_probability=True, accumulate=2)
    assert (seeding.num_iterations, seeding.max_consecutive_errors) == (3, 2)
    i = seeding.imitation
    assert (i.prefix_beta, i.threshold, i.is_relative, i.unit) == ((2, 5), 4, False, "characters")
    assert (i.temperature, i.top_p) == (0.7, 0.9)
    c = default()
    c.seeding.accumulate = 4
    assert read(c).reinforcing.objective.accumulate == 4


def test_objective_at_in_staged_mode_distils_first():
    seeding = build(mode="staged", distill_fraction=0.25, steps=8, warmup=1, alpha=0.3)
    alphas = [seeding.objective_at(step).alpha for step in range(8)]
    assert alphas == [1, 1, 0, 0, 0, 0, 0, 0]
    assert dataclasses.replace(seeding.objective_at(7), alpha=0.3) == seeding.objective


def test_first_rollout_step():
    nights = {
        75: build(rollout_start=0.75),
        0: build(),
        100: build(num_prompts=0),
        40: build(rollout_start=0.1, mode="staged", distill_fraction=0.4, lam=0.0),
    }
    for step, seeding in nights.items():
        assert seeding.first_rollout_step == step
        learnt = [seeding.learns_from_rollouts(i, seeding.objective_at(i)) for i in range(100)]
        assert learnt == [i >= step for i in range(100)]
    # Dreams are learnt from their first update on.
    c = default()
    c.seeding.rollout_warmup = 5
    assert read(c).reinforcing.rollout_warmup == 5 and not read(c).reinforcing.rollout_start


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mode": "stages"}, "seeding.mode='stages'; choose from joint, staged"),
        (
            {"distill_fraction": 1.0},
            "seeding.distill_fraction=1.0; give a number above 0 and below 1",
        ),
        ({"num_iterations": 0}, "seeding.num_iterations=0; give a whole number at least 1"),
        (
            {"steps_per_generation": 0},
            "seeding.steps_per_generation=0; give a whole number at least 1",
        ),
        ({"accumulate": 3}, "seeding.batch_size=4 cannot be cut into seeding.accumulate=3"),
        ({"max_grad_norm": -1.0}, "seeding.max_grad_norm=-1.0; give a number at least 0"),
        ({"max_grad_norm_ratio": 1.0}, "seeding.max_grad_norm_ratio=1.0; give 0, or a number"),
        ({"rollout_warmup": -1}, "seeding.rollout_warmup=-1; give a whole number at least 0"),
        ({"on_policy_weight": "all"}, "seeding.on_policy_weight='all'; choose from lambda, tokens"),
        ({"accumulate": 0}, "seeding.accumulate=0; give a whole number at least 1"),
        ({"importance_cap": -1.0}, "seeding.importance_cap=-1.0; give 0, or a number above 0"),
        ({"rollout_top_p": 0.9}, "correct for it with seeding.importance_cap=2"),
        (
            {"rollout_temperature": 0.5},
            "seeding.rollout_temperature=0.5, seeding",
        ),
    ],
)
def test_invalid_settings_are_rejected(changes, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        build(**changes)


def test_sampled_divergence_with_top_p_is_rejected():
    sampled = {"divergence": "sampled", "lam": 1.0, "importance_cap": 2.0}
    assert build(**sampled).objective.divergence == Divergence("sampled")
    with pytest.raises(ValueError, match=r"seeding.rollout_top_p=0.5 with seeding.divergence='sam"):
        build(**sampled, rollout_top_p=0.5)
