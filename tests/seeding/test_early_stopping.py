"""When a night ends that asks itself what it has learnt."""

import itertools

import pytest

from sleep_jax.seeding.early_stopping import EarlyStopping, OwnAnswers
from sleep_jax.seeding.seeding_config import SeedingConfig


def length(counts, total=5, **changes):
    """(updates of a night, those after which it asks): of evaluations that find `counts` right."""
    settings = {"steps": 6, "max_steps": 20, "eval_steps": 2, "early_stopping_patience": 2}
    found = itertools.chain(counts, itertools.repeat(0))
    seeding = SeedingConfig(warmup=0, **settings | changes)
    stopping = EarlyStopping.of(seeding, OwnAnswers(lambda student: next(found), total))
    for done in itertools.count():
        if stopping.is_over(done):
            return done, [step for step, _ in stopping.history]
        if stopping.is_due(done + 1):
            stopping.evaluate(done + 1, None)


def test_night_ends_early_once_all_are_answered():
    assert length([3, 5]) == (4, [2, 4])


def test_night_that_learns_nothing_is_as_long_as_planned():
    assert length([0, 0, 0]) == (6, [2, 4, 6])


def test_night_does_not_end_before_its_plan_without_improvement():
    assert length([4, 3, 3, 3])[0] == 6


def test_night_goes_on_while_more_are_answered():
    # The best, 3 at update 8, is followed by two evaluations that are not better.
    assert length([1, 1, 2, 3, 3, 2]) == (12, [2, 4, 6, 8, 10, 12])
    assert length([1, 1, 2, 3, 3, 2], early_stopping_patience=1)[0] == 10


def test_night_that_goes_on_is_bounded():
    assert length(range(1, 99), total=99, max_steps=11)[0] == 11


def test_night_asks_after_its_last_planned_update_too():
    assert length([0, 0], eval_steps=4) == (6, [4, 6])


@pytest.mark.parametrize("changes", [{"eval_steps": 0}, {"total": 3}])
def test_night_that_asks_nothing_is_as_long_as_planned(changes):
    assert length([5, 5], **changes) == (6, [])


def test_without_answers_nothing_is_asked():
    seeding = SeedingConfig(steps=6, warmup=0, eval_steps=2)
    stopping = EarlyStopping.of(seeding, None)
    assert not stopping.is_due(2) and not stopping.is_over(5) and stopping.is_over(6)
