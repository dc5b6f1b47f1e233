"""Settings of a night's seeding: what the config builds, and what it rejects."""

import dataclasses

import pytest

from sleep_jax.config import default, read
from sleep_jax.rl.algorithms import surrogate
from sleep_jax.seeding.divergence import Divergence
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.sequences import Exchange


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


def exchange(prompt, completion):
    return Exchange(None, (1,) * prompt, (1,) * prompt, (2,) * completion, "answer")


@pytest.mark.parametrize(
    "epochs, updates",
    [
        (1.0, 3),  # 5 rows, 2 an update: ceil(2.5)
        (2.0, 5),  # ceil(2 * 5 / 2)
        (0.4, 1),  # 0.4 * 5 / 2 = 1, exactly
        (0.1, 1),  # a night has one update at least
        (9.0, 20),  # ceil(22.5), and at most max_steps
    ],
)
def test_epochs_make_the_updates_of_a_night(epochs, updates):
    shape = {"batch_size": 2, "max_length": 64, "max_target_length": 64}
    seeding = build(**shape, epochs=epochs, max_steps=20, warmup=4)
    # A row scores 64 tokens, so it holds one of these: 5 rows.
    sized = seeding.sized_for([exchange(8, 40)] * 5)
    assert (sized.steps, sized.warmup) == (updates, min(4, updates - 1))
    assert dataclasses.replace(sized, steps=100, warmup=4) == seeding


def test_without_epochs_a_night_has_its_steps():
    seeding = build(steps=7)
    assert seeding.sized_for([exchange(8, 40)] * 5) is seeding
    assert seeding.most_steps == 7 and build(steps=7, eval_steps=5).most_steps == 1000


def test_schedule_rollouts_and_stages_follow_the_length():
    fields = {"batch_size": 2, "max_length": 64, "max_target_length": 64, "epochs": 4.0}
    seeding = build(**fields, mode="staged", rollout_start=0.3, distill_fraction=0.5)
    sized = seeding.sized_for([exchange(8, 40)] * 5)
    assert sized.steps == 10
    assert [sized.objective_at(step).alpha for step in range(10)] == [1] * 5 + [0] * 5
    joins = [sized.learns_from_rollouts(step, sized.objective_at(9)) for step in range(10)]
    assert joins == [False] * 3 + [True] * 7
    # A round serves as many updates whatever the length of the night.
    assert sized.updates_of_round(9) == sized.steps_per_generation == 4
    assert build(steps=10).updates_of_round(9) == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"epochs": 1.0, "max_steps": 4}, "seeding.max_steps=4 does not exceed seeding.warmup=4"),
        ({"eval_steps": 5, "max_steps": 99}, "seeding.steps=100 is more than seeding.max_steps=99"),
        ({"epochs": -1.0}, "seeding.epochs=-1.0; give a number at least 0"),
        ({"early_stopping_patience": 0}, "seeding.early_stopping_patience=0; give a whole number"),
    ],
)
def test_invalid_lengths_are_rejected(changes, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        build(**changes)


@pytest.mark.parametrize("field", ["evaluation.own_questions", "dreaming.held_out"])
@pytest.mark.parametrize("asking", ["gate.answers=0.5", "seeding.eval_steps=10"])
def test_what_asks_own_questions_needs_some(field, asking):
    c = default()
    c.dreaming.steps = 0
    name, value = asking.split("=")
    c.update_from_flattened_dict({name: float(value) if "." in value else int(value), field: 0})
    with pytest.raises(ValueError, match=f"{asking} asks held-out own questions, and {field}=0"):
        read(c)


def test_dreams_are_as_long_as_they_were():
    c = default()
    c.seeding.update({"epochs": 2.0, "eval_steps": 10})
    dreams = read(c).reinforcing
    assert (dreams.steps, dreams.epochs, dreams.eval_steps) == (c.dreaming.steps, 0, 0)
    c.dreaming.restart = "base"
    with pytest.raises(ValueError, match=r"seeding\.epochs=2\.0 with dreaming\.restart='base'"):
        read(c)
