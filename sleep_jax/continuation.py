"""More days for a run that is finished, or was stopped: `launch.py --continue=RUN`.

What the run knows stays as it is: its days are on record (`days`), and no document of theirs is
read again. Its last settings hold for new days, but for those given now. A night that is under way
or still to come from an earlier command keeps its own; what was given now about slots, devices and
checkpoints holds for these, too.

    lifecycle.run(load_continued(workdir, source), workdir)
"""

import dataclasses
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections
from etils import epath

from sleep_jax.addresses import check_answers
from sleep_jax.config import read, restored
from sleep_jax.data.documents import NONE, Source, read_source
from sleep_jax.days import Day, cut_into_days, read_days, reading_of
from sleep_jax.experiment import NOTHING, Experiment, load_experiment, template_options
from sleep_jax.interop.load import local_tokenizer
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.phases.hours import nights_over
from sleep_jax.run_schedule import ScheduledPhase, phases_left
from sleep_jax.runtime.checkpoints import last_record
from sleep_jax.runtime.workdir import (
    FREE,
    GIVEN,
    check_same_base,
    check_same_reading,
    config_difference,
    runs_in,
)
from sleep_jax.slot_plan import levels, slots_in_use

# Fields that hold from here on, also for nights that an earlier command has begun.
FROM_HERE_ON = ("mesh.", "checkpoint.", "model.name:", "memory.slots:", "memory.on_full:")
# Fields that stay, and why.
FIXED = {
    "seed:": "the memory of the run was drawn with it",
    "model.dtype:": "the model is the same for all nights",
    "model.thinking:": "the model is the same for all nights",
    "model.date:": "the model is the same for all nights",
    "memory.": "the slots that the run has were made so",
    "wake.context:": "the stream that is read by day goes on in it",
}
GROWS = ("memory.slots:", "memory.on_full:", "memory.router_key:")  # though in a section of `FIXED`


@dataclasses.dataclass(frozen=True)
class KnownRun:
    """A run as it is on disk, before it is given more.

    Attributes:
      workdir: of the run.
      days: all that it was given, each with the settings of its night.
      record: of its last checkpoint; {} before the first.
    """

    workdir: str
    days: tuple[Day, ...]
    record: Mapping[str, Any]

    @property
    def phases(self) -> Mapping[str, Any]:
        """Facts of the finished phases, by label."""
        return self.record["run"]["phases"] if self.record else {}

    @property
    def over(self) -> int:
        """How many days are over."""
        return nights_over({"phases": self.phases})

    @property
    def config(self) -> ml_collections.ConfigDict:
        """What further days begin with: the settings of the last night, and nothing to read."""
        config = restored(self.days[-1].config.to_dict(), self.workdir)
        config.data.documents, config.data.limit, config.data.episodes = NONE, 0, 1
        return config

    def changes(self, config: ml_collections.ConfigDict) -> list[str]:
        """The settings of new nights that differ from those of the last one, as `name: old -> new`.

        Raises:
          ValueError: one of them has to stay as it is; names it, and why.
        """
        changes = config_difference(self.config.to_dict(), config.to_dict())
        changes = [x for x in changes if not x.startswith((*GIVEN, *FREE))]
        for change in changes:
            for field, why in FIXED.items():
                if change.startswith(field) and not change.startswith(GROWS):
                    raise ValueError(
                        f"{change}: this setting stays as it is in {self.workdir}, since {why}; "
                        "leave it out, or begin another run for it"
                    )
        old, new = (read(x).memory.levels for x in (self.days[-1].config, config))
        for number, (before, after) in enumerate(zip(old, new), 1):
            if after.slots < before.slots:
                raise ValueError(
                    f"memory.slots={after.slots} of level {number}: the run in {self.workdir} has "
                    f"{before.slots}, which can only become more"
                )
        return changes

    def with_days(
        self, config: ml_collections.ConfigDict, given: Source | None = None
    ) -> Experiment:
        """The experiment with all that the run knows and, after it, new days.

        Args:
          config: the settings of the new nights (`KnownRun.config`, with changes).
          given: whole documents; None: those of `data.documents`.

        Raises:
          ValueError: a setting cannot change, nothing is left to use it, the model is another one,
            or the slots do not suffice; before anything is written.
          Exception: as `load_experiment`.
        """
        self.changes(config)  # a mistake is reported before the model is loaded
        days = self.days_kept(config)
        experiment = load_experiment(config, days, given)
        new = len(experiment.days) - len(days)
        self.check_used(config, new)
        if not new:
            experiment = dataclasses.replace(experiment, config=days[-1].config)
        check_same_base(self.record.get("base", {}), experiment.base, self.workdir)
        self._check_reading()
        check_room(experiment.schedule, experiment.memories, self.phases)
        for day in range(self.over, len(days)):
            experiment.on(day)  # loads its teachers and its judge
        return experiment

    def _check_reading(self) -> None:
        """Refuses days that are not those of the last checkpoint."""
        old, count = self.record.get("reading"), self.record.get("days_given")
        counts = range(1, len(self.days) + 1) if count is None else [count]
        readings = [reading_of(self.days[:n]) for n in counts]
        if old not in readings:
            check_same_reading(old, readings[-1], self.workdir)

    def days_kept(self, config: ml_collections.ConfigDict) -> tuple[Day, ...]:
        """What the run was given, with what holds from here on (`FROM_HERE_ON`)."""
        to_come = (_from_here_on(day, config) for day in self.days[self.over :])
        return (*self.days[: self.over], *to_come)

    def check_used(self, config: ml_collections.ConfigDict, new: int) -> None:
        """Refuses settings that cannot change, or that no night would have.

        Args:
          config: of the new nights.
          new: how many there are.

        Raises:
          ValueError: names the setting.
        """
        unused = self.changes(config)
        if self.over < len(self.days):
            unused = [x for x in unused if not x.startswith(FROM_HERE_ON)]
        if unused and not new:
            raise ValueError(
                f"{unused[0]}: there is no new day whose night would have this setting; give "
                "documents that were not read yet with --config.data.documents"
            )

    def lines(self, config: ml_collections.ConfigDict, days: int, source: str) -> Iterator[str]:
        """What is about to be done, in lines.

        Args:
          config: of the new nights.
          days: how many there are then, those that are known included.
          source: a line that says what is read.
        """
        known, new = len(self.days), days - len(self.days)
        line = f"continues {self.workdir}: {known} day{'' if known == 1 else 's'} known, "
        line += f"{new or 'none'} new"
        if self.over < known:
            to_come = f"{self.over + 1}" + (f" to {known}" if self.over + 1 < known else "")
            line += f"; finishes day {to_come} first, under its own settings"
        elif not new:
            line += "; it is finished"
        yield line if new or source == NOTHING else f"{line} ({source})"
        yield from (f"from day {known + 1} on {x}" for x in self.changes(config) if new)


def known_run(workdir: str | os.PathLike[str]) -> KnownRun:
    """The run in a directory; starts no device.

    Raises:
      FileNotFoundError: there is none; names runs nearby.
      ValueError: what it was given is damaged or, of an older run, which did not keep its
        documents, is not there as it was.
      Exception: as `addresses.check_answers`.
    """
    check_answers(workdir)
    days, record = read_days(workdir), last_record(epath.Path(workdir) / "checkpoints")
    if not days and record is None:
        nearby = runs_in(workdir)
        remedy = f"there are {nearby}" if nearby else "begin one with --config=FILE"
        raise FileNotFoundError(f"--continue={workdir}: no run is there; {remedy}")
    return KnownRun(str(workdir), days or _days_read_again(record, workdir), record or {})


def load_continued(
    workdir: str | os.PathLike[str],
    given: Source | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Experiment:
    """A run with more days, for `lifecycle.run`.

    Args:
      workdir: of the run.
      given: whole documents to read on new days, as of `data.documents.read_source`; None: none,
        and what is unfinished is to be finished.
      changes: settings of the new nights, by path: {"seeding.steps": 50}.

    Raises:
      Exception: as `known_run` and `KnownRun.with_days`.
    """
    known = known_run(workdir)
    config = known.config
    config.update_from_flattened_dict({**(changes or {})})
    return known.with_days(config, given)


def check_room(
    schedule: Sequence[ScheduledPhase],
    memories: Sequence[MemoryConfig],
    phases: Mapping[str, Any],
) -> None:
    """Refuses days for whose nights a level has no slot, where the run would stop there.

    Args:
      schedule: of all days.
      memories: the levels as each day has them.
      phases: facts of the finished phases, by label.

    Raises:
      ValueError: says how many slots it takes.
    """
    left, memory = phases_left(schedule, phases), memories[-1]
    if memory.on_full in ("skip", "reuse"):
        return
    in_use = slots_in_use(schedule, memories, phases)
    for level in levels(memory, left, in_use):
        number, slots, used = level.number, level.slots, in_use.get(level.number, 0)
        if len(level.nights) <= slots:
            continue
        remedy = _slots_flag(memory, number, len(level.nights))
        if memory.on_full == "merge":
            remedy = f"a merge needs a free slot: give {_slots_flag(memory, number, used + 1)}"
        else:
            merging = _slots_flag(memory, number, max(slots, used + 1, 3))
            remedy = f"give {remedy}, or --config.memory.on_full=merge with {merging}"
        raise ValueError(
            f"level {number} has {used} of its memory.slots={slots} in use, and on day "
            f"{level.nights[slots] + 1} none is free; {remedy}"
        )


def _slots_flag(memory: MemoryConfig, level: int, slots: int) -> str:
    """The flag that gives a level so many slots."""
    counts = [x.slots for x in memory.levels]
    counts[level - 1] = slots
    return shlex.join([f"--config.memory.slots={tuple(counts)}"])


def _from_here_on(day: Day, config: ml_collections.ConfigDict) -> Day:
    """A day that is not over, with the fields of `FROM_HERE_ON` as they are now."""
    changed = restored(day.config.to_dict(), "a day")
    for field in FROM_HERE_ON:
        section, name = field.removesuffix(":").split(".")
        names = [name] if name else [*changed[section]]
        changed[section].update({name: config[section][name] for name in names})
    return dataclasses.replace(day, config=ml_collections.FrozenConfigDict(changed))


def _days_read_again(record: Mapping[str, Any], workdir: str | os.PathLike[str]) -> tuple[Day, ...]:
    """The days of a run that was made before days were kept: its documents, cut as they were."""
    config = restored(record["config"], f"the run in {workdir}")
    tokenizer = local_tokenizer(config.model.name, **template_options(config))
    if tokenizer is None:
        raise ValueError(
            f"model.name={config.model.name!r} is not on this machine, and the run in {workdir} "
            "does not keep its documents, which are cut by its tokenizer; fetch the model first"
        )
    source = read_source(config.data.documents, config.data.limit)
    _, days = cut_into_days(config, source, tokenizer.encode)
    check_same_reading(record.get("reading"), reading_of(days), workdir)
    settings = ml_collections.FrozenConfigDict(config)
    return tuple(dataclasses.replace(day, config=settings) for day in days)
