"""Which slots a run will have in use, and when a level has none left: from its schedule, if no
night is rolled back.
"""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.phases.day_slots import days_of
from sleep_jax.run_schedule import ScheduledPhase

THEN = {
    "error": "the run stops there",
    "merge": "the run stops there, since a merge needs a free slot",
    "skip": "nights from then on are skipped",
    "reuse": "later nights overwrite the last slot",
}


@dataclasses.dataclass(frozen=True)
class LevelPlan:
    """How a level fills.

    Attributes:
      number, slots: of the level.
      nights: when most of its slots are in use, the days that gave it one each, as if it had no
        end of slots.
      merges: the days on which its slots become one.
    """

    number: int
    slots: int
    nights: Sequence[int]
    merges: Sequence[int]

    def line(self) -> str:
        """The plan as a line."""
        text = f"level {self.number}: {min(len(self.nights), self.slots)} of {self.slots} in use"
        text += " at most"
        if self.merges:
            times = f"{len(self.merges):,} merge{'' if len(self.merges) == 1 else 's'}"
            text += f", {times}, the first on day {self.merges[0] + 1}"
        if len(self.nights) >= self.slots:
            full = f", full after day {self.nights[self.slots - 1] + 1}"
            text += full if self.slots else ", it has none"
        return text


def levels(
    memory: MemoryConfig,
    schedule: Sequence[ScheduledPhase],
    slots_used: Mapping[int, int] | None = None,
) -> list[LevelPlan]:
    """The plan of each level that a run fills, the fastest first.

    Args:
      memory: of the model.
      schedule: of the run, or of what is left of it; its merges happen where
        `transaction.check_capacity` says `merge`.
      slots_used: how many slots each level has in use before that; None: none.
    """
    before = [schedule[0].day - 1] if schedule else []
    in_use: dict[int, list[int]] = collections.defaultdict(list)
    in_use |= {level: before * count for level, count in (slots_used or {}).items()}
    most: dict[int, list[int]] = {}
    merges: dict[int, list[int]] = collections.defaultdict(list)
    for scheduled in schedule:
        level = scheduled.sender + 1
        if scheduled.phase == "merge" and 1 < len(in_use[level]) == memory.level(level).slots - 1:
            in_use[level] = in_use[level][-1:]
            merges[level].append(scheduled.day)
        elif scheduled.phase == "consolidate":
            in_use[level].append(scheduled.day)
            in_use[scheduled.sender] = []  # it has handed its slots over
            most[level] = max(most.get(level, []), [*in_use[level]], key=len)
    return [LevelPlan(n, memory.level(n).slots, most[n], merges[n]) for n in sorted(most)]


def slots_in_use(
    schedule: Sequence[ScheduledPhase],
    memories: Sequence[MemoryConfig],
    phases: Mapping[str, Mapping[str, Any]],
) -> dict[int, int]:
    """How many slots of each level a run has in use, by level.

    Args:
      schedule: of the run.
      memories: the levels as each day has them.
      phases: facts of the finished phases, by label, in their order.
    """
    in_use, at_start = collections.Counter(), {}
    by_label = {scheduled.label: scheduled for scheduled in schedule}
    for label, facts in phases.items():
        if taken_back := days_of(facts.get("taken_back", "")):
            in_use = at_start[min(taken_back)].copy()
        if (scheduled := by_label.get(label)) is None:
            continue
        at_start.setdefault(scheduled.day, in_use.copy())
        if "skipped" in facts or "rolled_back" in facts:
            continue
        level = scheduled.sender + 1
        if scheduled.phase == "merge":
            in_use[level] = 1
        elif scheduled.phase == "consolidate":
            slots = memories[scheduled.day].level(level).slots
            in_use[level] = min(in_use[level] + 1, slots)
            in_use[scheduled.sender] = 0
    in_use.pop(0, None)
    return dict(in_use)


def exhausted(
    memory: MemoryConfig,
    schedule: Sequence[ScheduledPhase],
    slots_used: Mapping[int, int] | None = None,
) -> Iterator[str]:
    """A line for each level that runs out of slots: what happens then, and the remedy; arguments as
    for `levels`.
    """
    for level in levels(memory, schedule, slots_used):
        slots, nights = level.slots, len(level.nights)
        if nights <= slots or memory.on_full not in THEN:
            continue
        yield (
            f"level {level.number} has {slots:,} slot{'' if slots == 1 else 's'} for {nights:,} "
            f"nights: on day {level.nights[slots] + 1} none is free and {THEN[memory.on_full]} "
            f"(memory.on_full={memory.on_full!r}); begin with memory.slots of {nights} or "
            "memory.on_full='merge', or set it to 'skip' or 'reuse', now or in the same workdir "
            "later, where --continue can also give more slots"
        )
