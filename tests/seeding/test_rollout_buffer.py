"""The rollout buffer: rounds are collected when updates need them, and handed out in shares."""

import dataclasses
import runpy

import jax
import pytest

from sleep_jax.seeding.imitation import ImitationConfig
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.rollout_buffer import RolloutBuffer
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import BatchShape, Exchange

DREAMS = [Exchange(0, (1, 2), (1, 2), (3, 4, i), "quote") for i in range(5, 9)]
ON_POLICY, BY_TEACHER = Objective(lam=0.5), Objective(alpha=1.0, lam=0.0)


def buffer_and_calls(written=(), num_iterations=1, rollout_start=0.0, num_prompts=1):
    """(buffer, calls): rounds of two updates, two rollouts a dream; calls of `collect` are recorded
    as (student, last tokens of the dreams)."""
    config = SeedingConfig(
        steps=8,
        learning_rate=1e-2,
        warmup=0,
        objective=ON_POLICY,
        shape=BatchShape(4, 64, 32),
        num_prompts=num_prompts,
        steps_per_generation=2,
        num_iterations=num_iterations,
        rollout_start=rollout_start,
        imitation=ImitationConfig(num_generations=2, max_new_tokens=4),
    )
    calls = []

    def collect(*, dreams, student, value_head, widths, rng):
        calls.append((student, [e.completion[-1] for e in dreams]))
        sources = [e for e in dreams for _ in range(2)] or written
        rollouts = [dataclasses.replace(e, on_policy=True) for e in sources]
        return rollouts, [None] * len(rollouts), {"reward": 1.0, "rollouts": ["a", "b"]}

    return RolloutBuffer(config, DREAMS, written, collect, jax.random.key(0), 0), calls


def test_take_hands_out_equal_shares_for_every_iteration():
    buffer, calls = buffer_and_calls(num_iterations=2)
    assert buffer.is_due(0, ON_POLICY) and buffer.is_resumable
    buffer.collect(0, "student", None)
    [(student, dreams)] = calls
    assert student == "student" and len(dreams) == 2 == buffer.dreams_drawn
    taken = []
    for step in range(4):  # two passes over the rollouts of two updates
        assert not buffer.is_due(step + 1, ON_POLICY)
        taken.append([e.completion[-1] for e in buffer.take()])
    assert taken == [[dreams[0]] * 2, [dreams[1]] * 2] * 2
    assert buffer.is_due(4, ON_POLICY) and buffer.take() == []


def test_collect_samples_only_what_remaining_updates_use():
    """Of eight updates the last five, two a round: the third round is of one."""
    buffer, calls = buffer_and_calls(rollout_start=0.375)
    taken = []
    for step in range(8):
        if buffer.is_due(step, ON_POLICY):
            buffer.collect(step, None, None)
        taken += buffer.take()
    assert [len(dreams) for _, dreams in calls] == [2, 2, 1] and buffer.is_resumable
    assert len(taken) == 2 * buffer.dreams_drawn == 10


@pytest.mark.parametrize("name", ["sleep_smollm2", "levels_smollm2"])
def test_presets_end_with_a_full_round(name):
    """A round of another size would be compiled again."""
    seeding = runpy.run_path(f"configs/{name}.py")["get_config"]().seeding
    learn = seeding.steps - round(seeding.rollout_start * seeding.steps)
    assert learn % seeding.steps_per_generation == 0


def test_is_due_is_false_without_on_policy_terms():
    buffer, _ = buffer_and_calls(rollout_start=0.5)
    assert not buffer.is_due(3, ON_POLICY) and buffer.is_due(4, ON_POLICY)
    assert not buffer.is_due(4, BY_TEACHER)


def test_take_figures_gives_lists_once():
    buffer, _ = buffer_and_calls()
    assert buffer.take_figures() == {}
    buffer.collect(0, None, None)
    assert buffer.take_figures() == {"reward": 1.0, "rollouts": ["a", "b"]}
    assert buffer.take_figures() == {"reward": 1.0}


def test_resume_continues_the_order_of_dreams():
    uninterrupted, calls = buffer_and_calls()
    for step in (0, 2):
        uninterrupted.collect(step, None, None)
    resumed, later_calls = buffer_and_calls()
    resumed.resume(2, dreams_drawn=2)
    resumed.collect(2, None, None)
    assert later_calls == calls[1:] and resumed.dreams_drawn == uninterrupted.dreams_drawn == 4


def test_few_written_rollouts_are_all_of_every_update():
    """There must be no second round, which a later student would score."""
    buffer, calls = buffer_and_calls([DREAMS[0]], num_iterations=8, num_prompts=2)
    buffer.collect_written(None, None)
    for step in range(8):
        assert not buffer.is_due(step, ON_POLICY) and len(buffer.take()) == 1
    assert len(calls) == 1


@pytest.mark.parametrize("done", [0, 1])
def test_written_rollouts_are_scored_before_the_first_update(done):
    written = [dataclasses.replace(DREAMS[i], on_policy=True) for i in range(2)]
    buffer, calls = buffer_and_calls(written)
    buffer.collect_written("initial", None)
    assert calls == [("initial", [])] and buffer.dreams_drawn == 0
    buffer.resume(done, dreams_drawn=0)
    left = [e.completion for _ in range(2) for e in buffer.take()]
    assert left == [e.completion for e in written[done:]]
    assert buffer.is_resumable
