"""Which slots a run will have in use, and when a level has none left, from the order of its phases,
if no night is rolled back."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence

from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.run_schedule import Step

THEN = {
    "error": "the run stops there",
    "skip": "nights from then on are skipped",
    "reuse": "later nights overwrite the last slot",
}


@dataclasses.dataclass(frozen=True)
class LevelPlan:
    """How a level fills.

    Attributes:
      number, slots: of the level.
      nights: when most of its slots are in use, the days that gave it one each; as many as there
        would be with no end of slots.
      merges: the days on which its slots become one.
    """

    number: int
    slots: int
    nights: Sequence[int]
    merges: Sequence[int]

    def line(self) -> str:
        """In words."""
        said = f"level {self.number}: {min(len(self.nights), self.slots)} of {self.slots} in use"
        said += " at most"
        if self.merges:
            times = f"{len(self.merges):,} merge{'' if len(self.merges) == 1 else 's'}"
            said += f", {times}, the first on day {self.merges[0] + 1}"
        if len(self.nights) >= self.slots:
            full = f", full after day {self.nights[self.slots - 1] + 1}"
            said += full if self.slots else ", it has none"
        return said


def levels(memory: MemoryConfig, steps: Sequence[Step]) -> list[LevelPlan]:
    """Those that a run fills, the fastest first.

    Args:
      memory: of the model.
      steps: of the run; a merge among them is made where `transaction.check_capacity` asks for one.
    """
    now: dict[int, list[int]] = collections.defaultdict(list)
    most: dict[int, list[int]] = {}
    merges: dict[int, list[int]] = collections.defaultdict(list)
    for step in steps:
        level = step.sender + 1
        if step.phase == "merge" and 1 < len(now[level]) == memory.level(level).slots - 1:
            now[level] = now[level][-1:]
            merges[level].append(step.day)
        elif step.phase == "consolidate":
            now[level].append(step.day)
            now[step.sender] = []  # it has handed over what it held
            most[level] = max(most.get(level, []), [*now[level]], key=len)
    return [LevelPlan(n, memory.level(n).slots, most[n], merges[n]) for n in sorted(most)]


def exhausted(memory: MemoryConfig, steps: Sequence[Step]) -> Iterator[str]:
    """What happens where a level has none left, with the remedy."""
    for level in levels(memory, steps):
        slots, nights = level.slots, len(level.nights)
        if nights <= slots or memory.on_full not in THEN:
            continue
        yield (
            f"level {level.number} has {slots:,} slot{'' if slots == 1 else 's'} for {nights:,} "
            f"nights: on day {level.nights[slots] + 1} none is free and {THEN[memory.on_full]} "
            f"(memory.on_full={memory.on_full!r}); begin with memory.slots of {nights} or "
            "memory.on_full='merge', or set it to 'skip' or 'reuse', now or in the same workdir "
            "later"
        )
