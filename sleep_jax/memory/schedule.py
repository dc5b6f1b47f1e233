"""When levels sleep, and how long their slots last (paper 3; design, schedule).

Level l consolidates into l + 1 when i = 0 mod C^(l). Where boundaries coincide the slow pairs go
first, so nothing climbs two levels in one night; the context (level 0) goes last.
"""

import dataclasses

from sleep_jax.memory.memory_config import MemoryConfig

NEARLY_FULL = 0.8  # share of slots in use from which a plan and a night warn


def due(memory: MemoryConfig, clock: int, ends_episode: bool = False) -> tuple[int, ...]:
    """The levels that consolidate at this time, slowest first.

    Args:
      memory: the levels.
      clock: units since birth.
      ends_episode: an episode ends now.
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
      sender: the level that hands over; the next one receives.
      used: slots of the receiver in use afterwards.
      slots: those that it has.
    """

    clock: int
    sender: int
    used: int
    slots: int

    @property
    def exceeds_slots(self) -> bool:
        """The receiver has no slot for it."""
        return self.used > self.slots


def plan(memory: MemoryConfig, length: int, episodes: tuple[int, ...] = ()) -> list[Sleep]:
    """Every consolidation of a stream, without running any.

    A receiver that has no slot left is listed with more slots used than it has; what comes after
    depends on memory.on_full and is listed as if there had been room.

    Args:
      memory: the levels.
      length: of the stream, in units of the memory.
      episodes: the clock at the end of each episode; where periods count episodes it is not needed.
    """
    ends = set(range(1, length + 1) if memory.unit == "episodes" else episodes)
    times = {
        clock
        for number in range(1, memory.depth)
        for clock in range(memory.level(number).period, length + 1, memory.level(number).period)
    }
    held, sleeps = dict.fromkeys(range(1, memory.depth + 1), 0), []
    for clock in sorted(times | {end for end in ends if end <= length}):
        for sender in due(memory, clock, clock in ends):
            held[sender + 1] += 1
            sleeps.append(Sleep(clock, sender, held[sender + 1], memory.level(sender + 1).slots))
            if sender:
                held[sender] = 0  # its experts are cleared
    return sleeps


def describe(memory: MemoryConfig, length: int, sleeps: list[Sleep]) -> list[str]:
    """A plan as lines a person reads: per pair how often, and when the receiver would be full."""
    lines = []
    for sender in range(memory.depth):
        mine = [s for s in sleeps if s.sender == sender]
        name = "context" if sender == 0 else f"level {sender}"
        slots = memory.level(sender + 1).slots
        if not mine:
            lines.append(f"{name} -> level {sender + 1}: never in {length} {memory.unit}")
            continue
        peak = max(s.used for s in mine)
        line = (
            f"{name} -> level {sender + 1}: {len(mine)} times, first at {mine[0].clock} "
            f"{memory.unit}; at most {min(peak, slots)} of {slots} slots in use"
        )
        if full := next((s for s in mine if s.exceeds_slots), None):
            line += f"; FULL at {full.clock} (memory.on_full={memory.on_full!r})"
        elif peak >= NEARLY_FULL * slots and sender + 1 == memory.depth:
            line += "; nearly full"
        lines.append(line)
    return lines
