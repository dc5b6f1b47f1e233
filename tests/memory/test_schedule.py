"""Nights: slow pairs first, one level a night, and a plan that is what the stream will do."""

import pytest

from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.schedule import Sleep, describe, due, plan


def memory(*levels, **fields):
    """Levels from (chunk, slots) pairs, by default in tokens and without the context."""
    fields = {"unit": "tokens", "stride": 1, "from_context": False} | fields
    return MemoryConfig(tuple(LevelConfig(c, s) for c, s in levels), **fields)


LADDER = memory((1000, 0), (5000, 5), (10000, 2), (0, 8), stride=250)
PLANS = {
    "two levels": (memory((3, 0), (0, 2)), 20, ()),
    "three levels": (memory((2, 0), (6, 3), (0, 9)), 40, ()),
    "four levels": (memory((2, 0), (4, 2), (12, 3), (0, 1)), 50, ()),
    "the ladder": (LADDER, 60000, ()),
    "episodes": (memory((3, 3), (6, 2), (0, 4), unit="episodes", from_context=True), 25, ()),
    "episodes of a stream": (
        memory((4, 1), (8, 2), (0, 4), unit="updates", from_context=True),
        30,
        (3, 8, 9, 16, 29, 30, 31),
    ),
}


def test_due_lists_the_slowest_first_and_the_context_last():
    ladder = memory((2, 2), (4, 2), (8, 2), (0, 9), unit="episodes", from_context=True)
    assert [due(ladder, clock) for clock in (1, 2, 3, 4, 6, 8, 16)] == [
        (),
        (1,),
        (),
        (2, 1),
        (1,),
        (3, 2, 1),
        (3, 2, 1),
    ]
    assert due(ladder, 8, ends_episode=True) == (3, 2, 1, 0)
    assert due(ladder, 7, ends_episode=True) == (0,)


def test_due_is_empty_at_the_start_and_without_levels():
    assert due(LADDER, 0) == ()
    assert due(LADDER, 1000, ends_episode=True) == (1,)  # its context is not consolidated
    assert due(MemoryConfig(), 256, ends_episode=True) == ()
    assert due(MemoryConfig((LevelConfig(),)), 256, ends_episode=True) == (0,)
    assert due(MemoryConfig((LevelConfig(),)), 256) == ()


def sleeps(config, length, episodes=()):
    return [(s.clock, s.sender, s.used) for s in plan(config, length, episodes)]


def test_plan_of_two_levels():
    assert sleeps(memory((2, 0), (0, 2)), 7) == [(2, 1, 1), (4, 1, 2), (6, 1, 3)]
    assert sleeps(memory((2, 0), (0, 2)), 1) == []


def test_plan_of_three_levels():
    assert sleeps(memory((2, 0), (4, 2), (0, 9)), 8) == [
        (2, 1, 1),
        (4, 2, 1),
        (4, 1, 1),  # into the bank that has just been cleared
        (6, 1, 2),
        (8, 2, 2),
        (8, 1, 1),
    ]


def test_plan_of_four_levels():
    thousands = [(clock / 1000, sender, used) for clock, sender, used in sleeps(LADDER, 20000)]
    first = [(clock, 1, clock) for clock in (1, 2, 3, 4)]
    assert thousands == [
        *first,
        (5, 2, 1),
        (5, 1, 1),
        *[(5 + n, 1, 1 + n) for n in (1, 2, 3, 4)],  # level 2 is at its five slots
        (10, 3, 1),  # level 3 hands up what it got at 5; what it gets tonight comes after
        (10, 2, 1),
        (10, 1, 1),
        *[(10 + n, 1, 1 + n) for n in (1, 2, 3, 4)],
        (15, 2, 2),  # level 3 is at its two slots
        (15, 1, 1),
        *[(15 + n, 1, 1 + n) for n in (1, 2, 3, 4)],
        (20, 3, 2),
        (20, 2, 1),
        (20, 1, 1),
    ]


def test_plan_with_the_context():
    episodes = memory((2, 2), (0, 9), unit="episodes", from_context=True)
    nights = [(1, 0, 1), (2, 1, 1), (2, 0, 1), (3, 0, 2), (4, 1, 2), (4, 0, 1)]
    assert sleeps(episodes, 4) == nights
    tokens = memory((8, 2), (0, 9), from_context=True)
    assert sleeps(tokens, 10, (5, 8, 11)) == [(5, 0, 1), (8, 1, 1), (8, 0, 1)]
    only = memory((0, 2), from_context=True)
    assert sleeps(only, 10, (5, 7, 9)) == [(5, 0, 1), (7, 0, 2), (9, 0, 3)]


@pytest.mark.parametrize("name", PLANS)
def test_plan_equals_due_at_every_tick(name):
    config, length, episodes = PLANS[name]
    banks, nights = dict.fromkeys(range(config.depth + 1), 0), []
    for clock in range(1, length + 1):
        ends = config.unit == "episodes" or clock in episodes
        for sender in due(config, clock, ends):
            banks[sender] = 0
            banks[sender + 1] += 1
            slots = config.level(sender + 1).slots
            nights.append(Sleep(clock, sender, banks[sender + 1], slots))
    assert plan(config, length, episodes) == nights and nights


@pytest.mark.parametrize("name", PLANS)
def test_plan_moves_nothing_up_two_levels_in_one_night(name):
    """What was read in each unit, followed from level to level."""
    config, length, episodes = PLANS[name]
    fastest = 0 if config.from_context else 1
    units_of, moved = {n: set() for n in range(config.depth + 1)}, {}
    schedule = plan(config, length, episodes)
    assert len({s.clock for s in schedule}) < len(schedule) or config.depth == 2  # they coincide
    for clock in range(1, length + 1):
        units_of[fastest].add(clock)
        for sleep in (s for s in schedule if s.clock == clock):
            for unit in units_of[sleep.sender]:
                assert moved.get(unit) != clock
                moved[unit] = clock
            units_of[sleep.sender + 1] |= units_of[sleep.sender]
            units_of[sleep.sender] = set()
    assert sorted(unit for units in units_of.values() for unit in units) == list(
        range(1, length + 1)
    )


def test_plan_exceeds_slots_of_the_slowest_level_only():
    """A bank between two levels has the slots that its config was checked for."""
    for config, length, episodes in PLANS.values():
        full = [s for s in plan(config, length, episodes) if s.exceeds_slots]
        if config.unit != "updates":  # there episodes may end as often as they like
            assert {s.sender + 1 for s in full} <= {config.depth}


def test_sleep_without_a_slot_exceeds_slots():
    planned = plan(memory((2, 0), (0, 2)), 8)
    assert [s.exceeds_slots for s in planned] == [False, False, True, True]
    assert not Sleep(clock=1, sender=0, used=5, slots=5).exceeds_slots


def test_describe_says_how_often_and_when_the_receiver_is_full():
    assert describe(LADDER, 100000, plan(LADDER, 100000)) == [
        "context -> level 1: never in 100000 tokens",
        "level 1 -> level 2: 100 times, first at 1000 tokens; at most 5 of 5 slots in use",
        "level 2 -> level 3: 20 times, first at 5000 tokens; at most 2 of 2 slots in use",
        "level 3 -> level 4: 10 times, first at 10000 tokens; at most 8 of 8 slots in use; FULL "
        "at 90000 (memory.on_full='error')",
    ]
    (_, _, _, last) = describe(LADDER, 70000, plan(LADDER, 70000))
    assert last.endswith("at most 7 of 8 slots in use; nearly full")
    (_, _, _, last) = describe(LADDER, 60000, plan(LADDER, 60000))
    assert last.endswith("at most 6 of 8 slots in use")
