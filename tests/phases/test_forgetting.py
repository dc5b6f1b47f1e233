"""Which slots hold which days, and what can be forgotten."""

import pytest

from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.phases.day_slots import Place, phase_before_day, places_of_days
from sleep_jax.phases.forgetting import forget_on_record, plan_forgetting
from sleep_jax.run_schedule import run_schedule
from sleep_jax.slot_plan import slots_in_use

NIGHT = {"levels": "0 -> 1"}


def record_of(*phases):
    """A record of phases, each (kind, facts); labels are numbered."""
    labels, by_label = {}, {}
    for kind, facts in phases:
        labels[kind] = labels.get(kind, 0) + 1
        label = kind if labels[kind] == 1 else f"{kind}-{labels[kind]}"
        by_label[label] = facts
    days = sum(kind == "evaluate" for kind, _ in phases)
    return {"phases": by_label, "days": [{"slot": 0} for _ in range(days)]}


def day(*nights):
    """The phases of a day with these consolidations or merges before that of its context."""
    return [("wake", {}), *nights, ("consolidate", NIGHT), ("evaluate", {})]


def forgotten(record, *days, slots=(3,)):
    """The record with some days forgotten, from 1."""
    days = [d - 1 for d in days]
    how = plan_forgetting(record, slots, days)
    count = sum(x.startswith("forget") for x in record["phases"])
    return forget_on_record(record, days, how, f"forget-{count + 1}" if count else "forget")


def test_days_fill_the_slots_of_level_1_in_order():
    assert places_of_days(record_of(*day(), *day()), (3,)) == {0: Place(1, 0), 1: Place(1, 1)}


@pytest.mark.parametrize("facts", [{"skipped": "level 1 is full"}, {"rolled_back": "anchors"}])
def test_night_that_changed_nothing_gives_its_day_no_slot(facts):
    lost = [("wake", {}), ("consolidate", NIGHT | facts), ("evaluate", {})]
    record = record_of(*lost, *day())
    assert places_of_days(record, (3,)) == {1: Place(1, 0)}
    with pytest.raises(ValueError, match="day 1: no slot holds it"):
        plan_forgetting(record, (3,), [0])


def test_days_climb_together_and_are_forgotten_together():
    climb = ("consolidate", {"levels": "1 -> 2"})
    record = record_of(*day(), *day(), *day(climb))
    assert places_of_days(record, (2, 2)) == {0: Place(2, 0), 1: Place(2, 0), 2: Place(1, 0)}
    with pytest.raises(ValueError, match=r"day 1 shares slot 0 of level 2 with day 2, .*--day=1,2"):
        plan_forgetting(record, (2, 2), [0])
    how = plan_forgetting(record, (2, 2), [0, 1])
    assert how.zeroed == {0: Place(2, 0), 1: Place(2, 0)} and not how.taken_back
    # With the day on which they climbed, that is taken back as well.
    how = plan_forgetting(record, (2, 2), [0, 2])
    assert how.taken_back == (2,) and how.zeroed == {0: Place(1, 0)}


def test_merged_days_share_a_slot():
    merge = ("merge", {"levels": "1 -> 1"})
    record = record_of(*day(), *day(), *day(merge))
    assert places_of_days(record, (3,)) == {0: Place(1, 0), 1: Place(1, 0), 2: Place(1, 1)}


def test_reuse_keeps_all_days_in_the_last_slot():
    record = record_of(*day(), *day())
    assert places_of_days(record, (1,)) == {0: Place(1, 0), 1: Place(1, 0)}
    with pytest.raises(ValueError, match="day 1 shares slot 0 of level 1 with day 2"):
        plan_forgetting(record, (1,), [0])


def test_slot_of_a_day_that_was_taken_back_is_given_to_the_next_one():
    record = forgotten(record_of(*day(), *day()), 2)
    assert places_of_days(record, (3,)) == {0: Place(1, 0)}
    for label, facts in zip(("wake-3", "consolidate-3", "evaluate-3"), ({}, NIGHT, {})):
        record["phases"][label] = facts
    record["days"].append({})
    assert places_of_days(record, (3,)) == {0: Place(1, 0), 2: Place(1, 1)}
    assert phase_before_day(record, 2) == "forget" and phase_before_day(record, 1) == "evaluate"
    assert phase_before_day(record, 0) is None


def test_slots_of_days_that_were_taken_back_are_free_again():
    memory = MemoryConfig((LevelConfig(slots=3, rank=2),))
    schedule = run_schedule(memory, [4] * 3, dreams=False)
    record = record_of(*day(), *day(), *day())
    assert slots_in_use(schedule, [memory] * 3, record["phases"]) == {1: 3}
    for days, count in (((1,), 3), ((2, 3), 1)):
        record = forgotten(record, *days)
        assert slots_in_use(schedule, [memory] * 3, record["phases"]) == {1: count}


def test_zeroed_slot_stays_in_use():
    record = forgotten(record_of(*day(), *day()), 1)
    assert places_of_days(record, (3,)) == {1: Place(1, 1)}
    # The newest day is taken back to a memory in which day 1 still speaks: it is zeroed again.
    how = plan_forgetting(record, (3,), [1])
    assert how.taken_back == (1,) and how.zeroed == {0: Place(1, 0)}


def test_only_days_that_no_other_follows_are_taken_back():
    record = record_of(*day(), *day(), *day())
    assert plan_forgetting(record, (3,), [0, 2]).taken_back == (2,)
    assert plan_forgetting(record, (3,), [1, 2]).taken_back == (1, 2)
    assert plan_forgetting(record, (3,), [1, 2], may_take_back=False).taken_back == ()
    assert plan_forgetting(forgotten(record, 3), (3,), [1]).taken_back == (1,)
