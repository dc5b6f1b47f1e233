"""The order of a run: when the day is cut, who sleeps then, and what each one holds."""

import pytest

from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.run_schedule import DREAMING, phases_left, run_schedule, schedule_of_days


def chain(*chunks, slots=8, rate=0.0, **fields):
    levels = tuple(LevelConfig(period=c, slots=slots, learning_rate=rate) for c in chunks)
    return MemoryConfig((*levels, LevelConfig(slots=slots)), **fields)


def in_words(schedule):
    """`wake 0:300` and `sleep 1>2` in words."""
    words = {
        "wake": lambda s: f"wake {s.start}:{s.stop}",
        "consolidate": lambda s: f"sleep {s.sender}>{s.sender + 1}",
    }
    return [words.get(s.phase, lambda s: s.phase)(s) for s in schedule]


def test_schedule_of_one_day_and_one_level():
    schedule = run_schedule(chain(unit="episodes"), [300])
    assert in_words(schedule) == ["wake 0:300", "study", "sleep 0>1", *DREAMING, "evaluate"]
    assert [s.label for s in schedule] == ["wake", "study", "consolidate", *DREAMING, "evaluate"]


def test_rng_streams_are_shared_within_a_consolidation_or_dreaming():
    schedule = run_schedule(chain(unit="episodes"), [300, 200])
    assert [s.rng_stream for s in schedule] == [0, 1, 1, *[2] * 4, 3, 4, 5, 5, *[6] * 4, 7]


def test_schedule_without_dreams_has_no_dreaming_phases():
    schedule = run_schedule(chain(unit="episodes"), [300, 200], dreams=False)
    assert in_words(schedule) == [
        "wake 0:300",
        "study",
        "sleep 0>1",
        "evaluate",
        "wake 0:200",
        "study",
        "sleep 0>1",
        "evaluate",
    ]


@pytest.mark.parametrize(
    "memory",
    [
        chain(unit="episodes", slots=3, on_full="merge"),
        chain(2, unit="episodes"),
        chain(100, unit="tokens", stride=50),
        chain(2, 4, unit="updates", stride=50),
    ],
)
def test_schedule_of_more_days_begins_with_that_of_fewer(memory):
    lengths = [120, 90, 260, 70, 100]
    whole = run_schedule(memory, lengths)
    for days in range(1, 5):
        part = run_schedule(memory, lengths[:days])
        assert part == whole[: len(part)] and whole[len(part)].day == days


def test_schedule_of_days_follows_the_settings_of_each():
    error = chain(unit="episodes", slots=3)
    merge = chain(unit="episodes", slots=3, on_full="merge")
    days, dreams = [error, error, merge, merge], [True, False, False, True]
    schedule = schedule_of_days(days, [9] * 4, dreams)
    assert [x.day for x in schedule if x.phase == "merge"] == [2, 3]
    assert [x.day for x in schedule if x.phase == "write"] == [0, 3]
    labels = [x.label for x in schedule]
    left = phases_left(schedule, labels[:7])
    assert left == schedule[7:] and phases_left(schedule, []) == schedule
    assert phases_left(schedule, labels) == []


def test_merge_precedes_a_consolidation_into_the_last_slot():
    schedule = run_schedule(chain(unit="episodes", slots=3, on_full="merge"), [9] * 4, dreams=False)
    assert [s.day for s in schedule if s.phase == "merge"] == [2, 3]
    third = [s for s in schedule if s.day == 2]
    assert [s.phase for s in third] == ["wake", "merge", "study", "consolidate", "evaluate"]
    assert third[2].rng_stream == third[3].rng_stream != third[1].rng_stream
    merging = third[1]
    assert (merging.sender, merging.since, merging.start, merging.stop) == (0, 0, 0, 9)
    # A level that has handed up what it held is empty again.
    schedule = run_schedule(
        chain(2, unit="episodes", slots=3, on_full="merge"), [9] * 4, dreams=False
    )
    assert not any(s.phase == "merge" for s in schedule)


def test_slow_levels_consolidate_before_fast_ones():
    schedule = run_schedule(chain(1, 2, unit="episodes"), [300, 200])
    sleeps = [[w for w in in_words(schedule) if "sleep" in w][i] for i in range(5)]
    assert sleeps == ["sleep 1>2", "sleep 0>1", "sleep 2>3", "sleep 1>2", "sleep 0>1"]
    assert [s.label for s in schedule if s.phase == "consolidate"][-1] == "consolidate-5"


def test_day_is_cut_where_a_period_ends():
    memory = chain(100, 200, unit="tokens", stride=50, from_context=False)
    schedule = run_schedule(memory, [150, 100])
    assert in_words(schedule) == [
        "wake 0:100",
        "sleep 1>2",
        "wake 100:150",
        *DREAMING,
        "evaluate",
        "wake 0:50",
        "sleep 2>3",
        "sleep 1>2",
        "wake 50:100",
        *DREAMING,
        "evaluate",
    ]
    assert [s.is_end for s in schedule if s.phase == "wake"] == [False, True, False, True]


def test_period_that_ends_with_the_day_cuts_nothing():
    memory = chain(2, unit="updates", stride=50)
    schedule = run_schedule(memory, [100, 100])
    assert in_words(schedule)[:4] == ["wake 0:100", "sleep 1>2", "study", "sleep 0>1"]


def test_since_is_the_first_day_after_the_last_sleep():
    """Level 1 slept on day 1 before the context of that day came into it."""
    schedule = run_schedule(chain(2, unit="episodes"), [10] * 5)
    assert [(s.day, s.since) for s in schedule if s.sender == 1] == [(1, 0), (3, 1)]
    # Within a day, what comes after the cut has not been read.
    schedule = run_schedule(chain(100, unit="tokens", stride=50, from_context=False), [150, 100])
    sleeps = [(s.since, s.start, s.day, s.stop) for s in schedule if s.phase == "consolidate"]
    assert sleeps == [(0, 0, 0, 100), (0, 100, 1, 50)]


def test_level_that_would_never_learn_raises():
    memory = chain(2, 4, unit="episodes", rate=0.1)
    assert run_schedule(memory, [10] * 4)
    with pytest.raises(ValueError, match="level 2 would never learn: its period is 4 episodes"):
        run_schedule(memory, [10] * 3)
    assert run_schedule(chain(2, 4, unit="episodes"), [10])  # one that should not may stay as it is
