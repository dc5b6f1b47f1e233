"""Forgetting days, by the user.

    the newest days    are taken back: the memory is again as it was before the first of them, bit
                       for bit
    an earlier day     is zeroed: down = 0 in the slot that holds it. The slot stays in use, and
                       what later nights learnt beside it stays as it is

Later nights neither ask again nor dream of nor hand over what a forgotten day had.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sleep_jax.memory.slots import put_slot, take_slot, zeroed
from sleep_jax.phases.day_slots import Place, places_of_days, text_of
from sleep_jax.phases.hours import nights_over
from sleep_jax.seeding.transaction import MemoryState

TAKEN_BACK, ZEROED = "taken back", "zeroed"  # `forgotten` of a day on record


@dataclasses.dataclass(frozen=True)
class Forgetting:
    """How days are forgotten.

    Attributes:
      taken_back: the newest days, by their indices.
      zeroed: the slots to be zeroed, by day; those of days that were zeroed earlier are among them.
    """

    taken_back: tuple[int, ...]
    zeroed: Mapping[int, Place]


def plan_forgetting(
    record: Mapping[str, Any],
    capacities: Sequence[int],
    days: Collection[int],
    may_take_back: bool = True,
) -> Forgetting:
    """How some days of a run can be forgotten.

    Args:
      record: of the run.
      capacities: slots of each level.
      days: indices of the days.
      may_take_back: whether the memory before the newest of them is at hand.

    Raises:
      ValueError: a day does not exist, is forgotten already, is held by no slot, or by one that
        holds others as well; says what can be done.
    """
    count, state = nights_over(record), _forgotten(record)
    for day in sorted(days):
        if not 0 <= day < count:
            there = f"there are days 1 to {count}" if count > 1 else "there is day 1"
            raise ValueError(f"day {day + 1}: there is no such day; {there}")
        if day in state:
            raise ValueError(f"day {day + 1} is forgotten already ({state[day]})")
    taken_back = _newest(count, state, days) if may_take_back else ()
    places = places_of_days(record, capacities, min(taken_back, default=None))
    rest = set(days) - set(taken_back)
    already = {day for day, how in state.items() if how == ZEROED} & places.keys()
    for day in sorted(rest):
        if day not in places:
            raise ValueError(
                f"day {day + 1}: no slot holds it, its night changed nothing; there is nothing to "
                "forget"
            )
        together = {d for d, place in places.items() if place == places[day]} - already
        if together - rest:
            raise ValueError(
                f"day {day + 1} shares {places[day]} with {_others(together - {day})}, and a slot "
                f"can only be zeroed as a whole; forget them together, --day={_joined(together)}, "
                "or none of them"
            )
    return Forgetting(taken_back, {day: places[day] for day in sorted(rest | already)})


def with_zeroed_slots(state: MemoryState, places: Iterable[Place]) -> MemoryState:
    """The memory with some slots zeroed (down = 0); every other entry is bit-identical."""
    memory = state.memory
    for place in places:
        slot = zeroed(take_slot(memory, place.level, place.slot))
        memory = put_slot(memory, place.level, place.slot, slot)
    return state.replace(memory=memory)


def forget_on_record(
    record: Mapping[str, Any], days: Collection[int], how: Forgetting, label: str, **facts: Any
) -> dict[str, Any]:
    """The record with days forgotten, as after a phase with this label and these facts."""
    rest = sorted(set(days) - set(how.taken_back))
    parts = {"taken_back": text_of(how.taken_back), "zeroed": text_of(rest)}
    facts = {name: text for name, text in parts.items() if text} | facts
    forgotten = dict.fromkeys(how.taken_back, TAKEN_BACK) | dict.fromkeys(rest, ZEROED)
    by_day = [*record["days"]]
    for day, word in forgotten.items():
        by_day[day] = {k: x for k, x in by_day[day].items() if k != "slot"} | {"forgotten": word}
    return {**record, "phases": {**record["phases"], label: facts}, "days": by_day}


def _forgotten(record: Mapping[str, Any]) -> dict[int, str]:
    """How each forgotten day was forgotten."""
    return {d: day["forgotten"] for d, day in enumerate(record["days"]) if "forgotten" in day}


def _newest(count: int, state: Mapping[int, str], days: Collection[int]) -> tuple[int, ...]:
    """Those of some days that no other follows but such as were taken back, in their order."""
    newest: list[int] = []
    for day in reversed(range(count)):
        if day in days:
            newest.insert(0, day)
        elif state.get(day) != TAKEN_BACK:
            break
    return tuple(newest)


def _others(days: Collection[int]) -> str:
    return f"{'days' if len(days) > 1 else 'day'} {text_of(days)}"


def _joined(days: Collection[int]) -> str:
    return text_of(days).replace(" ", "")
