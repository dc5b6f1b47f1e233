"""When levels consolidate, and how long their slots last (paper 3).

Level l consolidates into l + 1 when i = 0 mod C^(l). Where periods end together the slow levels go
first, so nothing climbs two levels in one night; the context (level 0) goes last.
"""

import dataclasses

from sleep_jax.memory.memory_config import MemoryConfig

NEARLY_FULL = 0.8  # share of slots in use from which plans and nights warn


def due(memory: MemoryConfig, clock: int, ends_episode: bool = False) -> tuple[int, ...]:
    """The levels that consolidate at this time, slowest first.

    Args:
      memory: the levels.
      clock: units of the memory since the start.
      ends_episode: an episode ends at this time.
    """
    senders = [
        number
        for number in range(memory.depth - 1, 0, -1)
        if clock and clock % memory.level(number).period == 0
    ]
    if ends_episode and memory.from_context and memory.depth:
        senders.append(0)
    return tuple(senders)


@dataclasses.dataclass(frozen=True)
class Sleep:
    """One consolidation in a plan.

    Attributes:
      clock: when, in units of the memory.
      sender: the level that is consolidated; the next one receives.
      used: slots of the receiver in use afterwards.
      slots: all slots of the receiver.
    """

    clock: int
    sender: int
    used: int
    slots: int

    @property
    def exceeds_slots(self) -> bool:
        """Whether the receiver has no slot left for it."""
        return self.used > self.slots


def plan(memory: MemoryConfig, length: int, episodes: tuple[int, ...] = ()) -> list[Sleep]:
    """Every consolidation of a stream, without running any.

    A receiver without a free slot is listed with more slots used than it has; what follows depends
    on memory.on_full and is listed as if there had been room.

    Args:
      memory: the levels.
      length: of the stream, in units of the memory.
      episodes: the clock at the end of each episode; not needed where periods count episodes.
    """
    ends = set(range(1, length + 1) if memory.unit == "episodes" else episodes)
    times = {
        clock
        for number in range(1, memory.depth)
        for clock in range(memory.level(number).period, length + 1, memory.level(number).period)
    }
    used, sleeps = dict.fromkeys(range(1, memory.depth + 1), 0), []
    for clock in sorted(times | {end for end in ends if end <= length}):
        for sender in due(memory, clock, clock in ends):
            used[sender + 1] += 1
            sleeps.append(Sleep(clock, sender, used[sender + 1], memory.level(sender + 1).slots))
            if sender:
                used[sender] = 0  # its experts are cleared
    return sleeps


def describe(memory: MemoryConfig, length: int, sleeps: list[Sleep]) -> list[str]:
    """A plan as text: per sender how often it consolidates, and when the receiver is full."""
    lines = []
    for sender in range(memory.depth):
        of_sender = [s for s in sleeps if s.sender == sender]
        name = "context" if sender == 0 else f"level {sender}"
        slots = memory.level(sender + 1).slots
        if not of_sender:
            lines.append(f"{name} -> level {sender + 1}: never in {length} {memory.unit}")
            continue
        peak = max(s.used for s in of_sender)
        line = (
            f"{name} -> level {sender + 1}: {len(of_sender)} times, first at {of_sender[0].clock} "
            f"{memory.unit}; at most {min(peak, slots)} of {slots} slots in use"
        )
        if full := next((s for s in of_sender if s.exceeds_slots), None):
            line += f"; FULL at {full.clock} (memory.on_full={memory.on_full!r})"
        elif peak >= NEARLY_FULL * slots and sender + 1 == memory.depth:
            line += "; nearly full"
        lines.append(line)
    return lines
