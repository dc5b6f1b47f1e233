"""Which days each slot holds, from the record of a run.

A night gives a day a slot of level 1. Later that slot moves up with what else its level holds, or
is merged with others.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sleep_jax.phases.hours import FORGET, ends_day


@dataclasses.dataclass(frozen=True, order=True)
class Place:
    """A slot.

    Attributes:
      level: from 1.
      slot: its index, from 0.
    """

    level: int
    slot: int

    def __str__(self) -> str:
        return f"slot {self.slot} of level {self.level}"


@dataclasses.dataclass
class _Slots:
    """The place of each day, by its index, and how many slots of each level are in use."""

    places: dict[int, Place]
    used: collections.Counter

    def copy(self) -> "_Slots":
        return _Slots(dict(self.places), self.used.copy())

    def move_up(self, sender: int, index: int) -> None:
        """All that a level holds goes into a slot of the next one."""
        for day, place in self.places.items():
            if place.level == sender:
                self.places[day] = Place(sender + 1, index)
        self.used[sender] = 0
        self.used[sender + 1] = max(self.used[sender + 1], index + 1)

    def merge(self, level: int) -> None:
        """All slots of a level become its first."""
        for day, place in self.places.items():
            if place.level == level:
                self.places[day] = Place(level, 0)
        self.used[level] = 1


def places_of_days(
    record: Mapping[str, Any], capacities: Sequence[int], before: int | None = None
) -> dict[int, Place]:
    """The slot that holds each day, by the index of the day; days that no slot holds are left out:
    their night was rolled back or skipped, or they were forgotten.

    Args:
      record: of a run (`phases.run_state.RunState.record`).
      capacities: slots of each level, the fastest first.
      before: as they were when the day of this index began; None: as they are.
    """
    now, day, zeroed = _Slots({}, collections.Counter()), 0, set()
    at_start = {0: now.copy()}
    for label, facts in record["phases"].items():
        kind = label.partition("-")[0]
        if kind == FORGET:
            zeroed |= set(days_of(facts.get("zeroed", "")))
            if taken_back := days_of(facts.get("taken_back", "")):
                now = at_start[min(taken_back)].copy()
            for forgotten in zeroed:
                now.places.pop(forgotten, None)
            at_start[day] = now.copy()
        elif kind in ("consolidate", "merge") and not {"skipped", "rolled_back"} & facts.keys():
            sender, level = (int(x) for x in facts["levels"].split(" -> "))
            index = min(now.used[level], capacities[level - 1] - 1)
            if kind == "merge":
                now.merge(level)
            elif sender:
                now.move_up(sender, index)
            else:
                now.places[day] = Place(level, index)
                now.used[level] = max(now.used[level], index + 1)
        if ends_day(label):
            day += 1
            at_start[day] = now.copy()
    return (now if before is None else at_start[before]).places


def phase_before_day(record: Mapping[str, Any], day: int) -> str | None:
    """Label of the last phase before a day began; None before the first."""
    last, days = None, 0
    for label in record["phases"]:
        if days == day and label.partition("-")[0] != FORGET:
            return last
        last, days = label, days + ends_day(label)
    return last


def days_of(text: str) -> list[int]:
    """Indices of days that are on record as `1, 3`, counted from 1.

    >>> days_of("1, 3"), days_of("")
    ([0, 2], [])
    """
    return [int(number) - 1 for number in text.split(", ") if number]


def text_of(days: Sequence[int]) -> str:
    """Days by their indices as text for the record and for people, counted from 1.

    >>> text_of([2, 0])
    '1, 3'
    """
    return ", ".join(str(day + 1) for day in sorted(days))


def titles_of_day(record: Mapping[str, Any], day: int) -> list[str]:
    """Titles of a day's documents that something was asked about, in their order."""
    asked = record["days"][day].get("asked", []) if day < len(record["days"]) else []
    return [*dict.fromkeys(question["document"] for question in asked)]


def shortened(titles: Sequence[str], most: int = 3) -> str:
    """The first titles, and how many more there are.

    >>> shortened(["A", "B", "C", "D"])
    'A; B; C; and 1 more'
    """
    more = len(titles) - most
    return "; ".join(titles[:most]) + (f"; and {more} more" if more > 0 else "")
