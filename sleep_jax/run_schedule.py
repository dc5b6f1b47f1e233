"""The schedule of a run: which phase comes when, known before the first one begins.

A day is one episode of the stream: some of the documents, read one after the other. Where the
period of a level ends within a day, the day is cut there and the level sleeps; the context sleeps
when the day is over, once the day has been studied. Then come dreams, and questions.
"""

import collections
import dataclasses
from collections.abc import Collection, Sequence

from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.memory.schedule import due

DREAMING = ("write", "select", "try", "learn")


@dataclasses.dataclass(frozen=True)
class ScheduledPhase:
    """One phase of a run, in its place.

    Attributes:
      label: its name, numbered from the second time on: `wake`, `consolidate-2`.
      phase: the name of the phase (`phases.hours.HOURS`).
      day: index of its day, from 0.
      rng_stream: number of its random stream, folded into the seed. The phases of one dreaming
        share theirs, and so does a consolidation with the study for it.
      start, stop: of wake, the tokens of the day's stream that it reads; of consolidate, where the
        sender last slept, in tokens of the day `since`, and how far this day has been read; of
        merge, where the receiver last slept, likewise.
      is_end: of wake, the day ends with it.
      sender: of consolidate, the level that hands over; of merge, the level below the one whose
        slots become one.
      since: of consolidate, index of the first day that the sender holds something of; of merge,
        of the first day that the merged slots do.
    """

    label: str
    phase: str
    day: int
    rng_stream: int
    start: int = 0
    stop: int = 0
    is_end: bool = False
    sender: int = 0
    since: int = 0


def run_schedule(
    memory: MemoryConfig, lengths: Sequence[int], dreams: bool = True
) -> list[ScheduledPhase]:
    """All phases of a run whose nights have the same settings; as `schedule_of_days`."""
    return schedule_of_days([memory] * len(lengths), lengths, [dreams] * len(lengths))


def schedule_of_days(
    memories: Sequence[MemoryConfig], lengths: Sequence[int], dreams: Sequence[bool]
) -> list[ScheduledPhase]:
    """All phases of a run. What comes on later days changes nothing of those before: the schedule
    of a run that is given more days begins with that of the run before.

    Args:
      memories: the levels, which say when they sleep, as each day has them: they may differ in
        their slots, and in what happens where these run out.
      lengths: tokens of each day's stream.
      dreams: whether there are any on that day.

    Raises:
      ValueError: a level that should learn by day would never do so; names its period.
    """
    schedule: list[ScheduledPhase] = []
    count = collections.Counter()

    def add(phase: str, day: int, **facts):
        count[phase] += 1
        label = phase if count[phase] == 1 else f"{phase}-{count[phase]}"
        shares = phase in DREAMING[1:] or (schedule and schedule[-1].phase == "study")
        rng_stream = schedule[-1].rng_stream + (not shares) if schedule else 0
        schedule.append(ScheduledPhase(label, phase, day, rng_stream, **facts))

    read = 0  # tokens before this day
    depth = max((memory.depth for memory in memories), default=0)
    last = dict.fromkeys(range(1, depth), (0, 0))  # each level's last sleep: day, token
    in_use = collections.Counter()  # slots that each level has in use, if no night is rolled back
    for day, (memory, length) in enumerate(zip(memories, lengths)):
        start = 0
        for stop, clock in _cuts(memory, day, read, length):
            is_end = stop == length
            add("wake", day, start=start, stop=stop, is_end=is_end)
            for sender in due(memory, clock, is_end):
                since, slept = last.get(sender, (day, 0))
                level = sender + 1
                if memory.on_full == "merge" and in_use[level] >= memory.level(level).slots - 1:
                    first, token = last.get(level, (0, 0))
                    add("merge", day, start=token, stop=stop, sender=sender, since=first)
                if not sender:
                    add("study", day)
                add("consolidate", day, start=slept, stop=stop, sender=sender, since=since)
                last |= {sender: (day, stop)} if sender else {}
                in_use[level] += 1
                in_use[sender] = 0
            start = stop
        for phase in DREAMING if dreams[day] else ():
            add(phase, day)
        add("evaluate", day)
        read += length
    if memories:
        _check_periods(memories[-1], len(lengths), read)
    return schedule


def phases_left(
    schedule: Sequence[ScheduledPhase], finished: Collection[str]
) -> list[ScheduledPhase]:
    """The phases that come after the last finished one; `finished` has the labels."""
    done = max((i for i, x in enumerate(schedule) if x.label in finished), default=-1)
    return [*schedule[done + 1 :]]


def _cuts(memory: MemoryConfig, day: int, read: int, length: int) -> list[tuple[int, int]]:
    """Where a day's reading pauses: (tokens into the day, clock then); the clock is 0 where no
    period ends.
    """
    if memory.unit == "episodes" or memory.depth < 2:
        return [(length, day + 1 if memory.unit == "episodes" else 0)]
    tokens = 1 if memory.unit == "tokens" else memory.stride
    period = memory.level(1).period * tokens
    first = (read // period + 1) * period
    cuts = [(at - read, at // tokens) for at in range(first, read + length + 1, period)]
    return cuts if cuts and cuts[-1][0] == length else [*cuts, (length, 0)]


def _check_periods(memory: MemoryConfig, days: int, tokens: int):
    total = {"episodes": days, "tokens": tokens, "updates": tokens // memory.stride}[memory.unit]
    for number in range(1, memory.depth):
        level = memory.level(number)
        if level.learning_rate and level.window > total:
            raise ValueError(
                f"level {number} would never learn: its period is {level.period} {memory.unit}, "
                f"the whole stream is {total}; shorten memory.periods or read more"
            )
