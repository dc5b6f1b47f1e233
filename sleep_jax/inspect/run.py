"""A run as it is on disk: checkpoints, metrics, config."""

import functools
import os
import re
import time
from collections.abc import Sequence
from typing import Any

from etils import epath

from sleep_jax.addresses import check_answers
from sleep_jax.fields import read_object
from sleep_jax.inspect import memory
from sleep_jax.inspect.checkpoint import Checkpoint
from sleep_jax.phases.hours import nights_over
from sleep_jax.report import run_record
from sleep_jax.report.headline import headline
from sleep_jax.runtime.metrics import figure_of, metrics_path, read_metrics
from sleep_jax.runtime.workdir import config_difference, days_path, report_path, runs_in

CURVES = ("kl", "held_out_kl", "reward")


class Run:
    """The directory of a run, finished or not, read only.

    Args:
      workdir: of the run, as in `launch.py --workdir`.

    Raises:
      FileNotFoundError: there is no run; names runs nearby.
      Exception: as `addresses.check_answers`.
    """

    def __init__(self, workdir: str | os.PathLike[str]):
        check_answers(workdir)
        self.workdir = epath.Path(workdir)
        if not self.workdir.is_dir():
            raise FileNotFoundError(f"no run in {workdir}: there is no such directory")
        if not self._checkpoints.is_dir() and not metrics_path(workdir).exists():
            nearby = runs_in(self.workdir)
            remedy = f"; there are {nearby}" if nearby else ""
            raise FileNotFoundError(
                f"no run in {workdir}: it holds neither checkpoints nor metrics.jsonl{remedy}"
            )

    def __getitem__(self, phase: str | int) -> Checkpoint:
        """The checkpoint of a phase, by name (`consolidate-2`) or index, negative from the end.

        Raises:
          KeyError: there is none; lists the existing ones.
        """
        finished = self.checkpoints
        if isinstance(phase, int) or re.fullmatch(r"-\d+|\d+", phase):
            number = int(phase)
            numbers = range(-len(finished), 0) if number < 0 else [x.index for x in finished]
            matches = [x for i, x in zip(numbers, finished) if i == number]
        else:
            matches = [x for x in finished if x.phase == phase]
        if not matches:
            names = ", ".join(x.phase for x in finished) or "none yet"
            raise KeyError(f"{self.workdir} has no checkpoint of phase {phase!r}; there is {names}")
        return matches[0]

    @functools.cached_property
    def all_checkpoints(self) -> list[Checkpoint]:
        """All checkpoints, valid or not, oldest first."""
        folders = self._checkpoints.glob("*") if self._checkpoints.is_dir() else ()
        numbered = [folder for folder in folders if folder.name.isdigit()]
        return [Checkpoint(x) for x in sorted(numbered, key=lambda x: int(x.name))]

    @functools.cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """The finished checkpoints, oldest first."""
        return [x for x in self.all_checkpoints if not x.problem()]

    @functools.cached_property
    def problems(self) -> list[str]:
        """What is wrong with the other checkpoints, as text."""
        return [f"checkpoint {x.folder}: {p}" for x in self.all_checkpoints if (p := x.problem())]

    @property
    def latest(self) -> Checkpoint:
        """The last valid checkpoint.

        Raises:
          FileNotFoundError: no phase has been finished.
        """
        if not self.checkpoints:
            reason = "; ".join(self.problems) or "no phase has been finished"
            raise FileNotFoundError(f"{self.workdir} has no valid checkpoint yet ({reason})")
        return self.checkpoints[-1]

    @property
    def config(self) -> dict[str, Any]:
        """The config of the run."""
        return self.latest.record["config"]

    @property
    def base(self) -> dict[str, dict[str, str]]:
        """The base models by config field, each {name, weights}; {} if they were not recorded."""
        return self.latest.record.get("base") or {}

    @property
    def record(self) -> dict[str, Any]:
        """The record of the run: `phases` and `days`."""
        return self.latest.record["run"]

    @functools.cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_metrics(self.workdir)

    @property
    def is_finished(self) -> bool:
        """Whether its report exists, the last file that a run writes, and no day was given to it
        since.
        """
        if not report_path(self.workdir).exists():
            return False
        return not self.checkpoints or nights_over(self.record) >= self.days_given

    @property
    def days_given(self) -> int:
        """How many days it was given; 0 where an older version did not keep them."""
        path = days_path(self.workdir)
        return len(read_object(path).objects("days")) if path.exists() else 0

    def state(self) -> str:
        """How far the run is, in one line."""
        done = len(self.checkpoints) and self.latest.index + 1
        if self.is_finished and not done:
            return f"{self.workdir}: finished, but no checkpoint of it is valid"
        if self.is_finished:
            return f"{self.workdir}: finished, {done} phases"
        where = f"{done} phases done" + (f", the last {self.latest.phase}" if done else "")
        line = self.metrics[-1] if self.metrics else None
        if line and (not done or line["phase"] not in self.record["phases"]):
            ago = round(time.time() - line["time"])
            where += f"; in {line['phase']}, step {line['step']}, {ago:,} s ago"
        return f"{self.workdir}: unfinished, {where}"

    def timeline(self) -> list[dict[str, Any]]:
        """The finished phases (`run_record.timeline`), each with `slots` {level: (in use, slots)}
        at its end; {} if its checkpoint was removed.
        """
        by_index = {x.index: x for x in self.checkpoints}
        rows = run_record.timeline(self.record)
        for row in rows:
            checkpoint = by_index.get(row["index"])
            row["slots"] = memory.in_use(checkpoint) if checkpoint else {}
        return rows

    def curves(
        self, prefixes: Sequence[str] = CURVES
    ) -> dict[str, dict[str, list[tuple[int, float]]]]:
        """{phase: {name: [(step, value), ...]}} of the metrics with these prefixes."""
        by_phase: dict[str, dict[str, list[tuple[int, float]]]] = {}
        for line in self.metrics:
            for name in line:
                value = figure_of(line, name) if name.startswith(tuple(prefixes)) else None
                if value is not None:
                    named = by_phase.setdefault(line["phase"], {})
                    named.setdefault(name, []).append((line["step"], value))
        return by_phase

    def samples(self) -> list[dict[str, Any]]:
        """Questions of the last day that was evaluated (`run_record.samples`)."""
        days = [rows for day in self.record["days"] if (rows := run_record.samples(day))]
        return days[-1] if days else []

    def scores(self) -> list[dict[str, Any]]:
        """The stages of that day's evaluation (`run_record.scores`)."""
        days = [rows for day in self.record["days"] if (rows := run_record.scores(day))]
        return days[-1] if days else []

    def headline(self) -> str:
        """The last night in one line, as in its report."""
        return headline(self.scores(), run_record.verdict_now(self.record))

    def recall(self) -> list[list[float]]:
        """Share of right answers about each day after each night (`run_record.recall`)."""
        return run_record.recall(self.record)

    def kept(self) -> list[list[str]]:
        """Own questions about each day right after each night (`run_record.kept`)."""
        return run_record.kept(self.record)

    def tasks(self) -> list[dict[str, Any]]:
        """Scores of tasks before and after each night (`run_record.tasks`)."""
        return run_record.tasks(self.record)

    @property
    def _checkpoints(self) -> epath.Path:
        return self.workdir / "checkpoints"


def difference(one: Run, other: Run) -> list[str]:
    """The settings in which two runs differ, as `name: one -> other`."""
    return config_difference(one.config, other.config)
