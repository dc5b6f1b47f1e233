"""Rounds: rollouts are played when updates need them, handed out in shares, and skipped after a
stop."""

import dataclasses
import runpy

import jax
import pytest

from sleep_jax.seeding.imitation import ImitationConfig
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.rounds import Rounds
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import BatchShape, Exchange

DREAMS = [Exchange(0, (1, 2), (1, 2), (3, 4, i), "quote") for i in range(5, 9)]
ON_POLICY, BY_TEACHER = Objective(lam=0.5), Objective(alpha=1.0, lam=0.0)


def rounds(written=(), num_iterations=1, rollout_start=0.0, dreams=1):
    """Two updates a round, by default of one dream, two rollouts each; (the rounds, what was
    asked)."""
    config = SeedingConfig(
        steps=8,
        learning_rate=1e-2,
        warmup=0,
        objective=ON_POLICY,
        shape=BatchShape(4, 64, 32),
        num_prompts=dreams,
        steps_per_generation=2,
        num_iterations=num_iterations,
        rollout_start=rollout_start,
        imitation=ImitationConfig(num_generations=2, max_new_tokens=4),
    )
    asked = []

    def play(*, dreams, student, value_head, widths, rng):
        asked.append((student, [e.completion[-1] for e in dreams]))
        sources = [e for e in dreams for _ in range(2)] or written
        rollouts = [dataclasses.replace(e, on_policy=True) for e in sources]
        return rollouts, [None] * len(rollouts), {"reward": 1.0, "rollouts": ["a", "b"]}

    return Rounds(config, DREAMS, written, play, jax.random.key(0), 0), asked


def test_a_round_serves_its_updates_in_shares():
    those, asked = rounds(num_iterations=2)
    assert those.is_due(0, ON_POLICY) and those.is_between
    those.play(0, "student", None)
    [(student, dreams)] = asked
    assert student == "student" and len(dreams) == 2 == those.drawn
    taken = []
    for step in range(4):  # two passes over the rollouts of two updates
        assert not those.is_due(step + 1, ON_POLICY)
        taken.append([e.completion[-1] for e in those.take()])
    assert taken == [[dreams[0]] * 2, [dreams[1]] * 2] * 2
    assert those.is_due(4, ON_POLICY) and those.take() == []


def test_rounds_sample_no_more_than_updates_learn_from():
    """Of eight updates the last five, two a round: the third round is of one."""
    those, asked = rounds(rollout_start=0.375)
    taken = []
    for step in range(8):
        if those.is_due(step, ON_POLICY):
            those.play(step, None, None)
        taken += those.take()
    assert [len(dreams) for _, dreams in asked] == [2, 2, 1] and those.is_between
    assert len(taken) == 2 * those.drawn == 10


@pytest.mark.parametrize("name", ["sleep_smollm2", "levels_smollm2"])
def test_presets_end_with_a_whole_round(name):
    """One of another size would be compiled for itself."""
    seeding = runpy.run_path(f"configs/{name}.py")["get_config"]().seeding
    learn = seeding.steps - round(seeding.rollout_start * seeding.steps)
    assert learn % seeding.steps_per_generation == 0


def test_updates_that_learn_from_the_teacher_alone_need_none():
    those, _ = rounds(rollout_start=0.5)
    assert not those.is_due(3, ON_POLICY) and those.is_due(4, ON_POLICY)
    assert not those.is_due(4, BY_TEACHER)


def test_lists_of_a_round_are_told_once():
    those, _ = rounds()
    assert those.told() == {}
    those.play(0, None, None)
    assert those.told() == {"reward": 1.0, "rollouts": ["a", "b"]}
    assert those.told() == {"reward": 1.0}


def test_after_a_stop_the_order_of_dreams_goes_on():
    whole, asked = rounds()
    for step in (0, 2):
        whole.play(step, None, None)
    later, again = rounds()
    later.skip(2, drawn=2)
    later.play(2, None, None)
    assert again == asked[1:] and later.drawn == whole.drawn == 4


def test_fewer_that_were_written_than_an_update_takes_are_all_of_every_update():
    """No second round, which another student would score, may come of it."""
    those, asked = rounds([DREAMS[0]], num_iterations=8, dreams=2)
    those.begin(None, None)
    for step in range(8):
        assert not those.is_due(step, ON_POLICY) and len(those.take()) == 1
    assert len(asked) == 1


@pytest.mark.parametrize("done", [0, 1])
def test_what_was_written_is_played_before_the_first_update(done):
    written = [dataclasses.replace(DREAMS[i], on_policy=True) for i in range(2)]
    those, asked = rounds(written)
    those.begin("as it was", None)
    assert asked == [("as it was", [])] and those.drawn == 0
    those.skip(done, drawn=0)
    left = [e.completion for _ in range(2) for e in those.take()]
    assert left == [e.completion for e in written[done:]]
    assert those.is_between
