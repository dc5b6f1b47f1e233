"""What passes from phase to phase: the model's memory and the facts on record."""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax

from sleep_jax.data.documents import Document
from sleep_jax.itinerary import Step
from sleep_jax.models.config import DecoderConfig
from sleep_jax.runtime.metrics import MetricWriter
from sleep_jax.runtime.preemption import Preempted, Watch
from sleep_jax.runtime.progress import phase_progress
from sleep_jax.seeding.record import UNMEASURED, Bookmark, Figures, Meter, Pace
from sleep_jax.seeding.sequences import Teacher
from sleep_jax.seeding.transaction import Self
from sleep_jax.sleeper import Sleeper
from sleep_jax.wake.context import read


@dataclasses.dataclass(frozen=True)
class Night:
    """What a phase leaves to the next; a checkpoint holds just this.

    Attributes:
      now: the model's memory as it is.
      evening: as it was when the last day ended: with its documents, the teacher of the night.
      consolidated: as it was before the last dreams.
      record: JSON-able facts: `phases` by label, and `days`, for each its `study`, the `slot` that
        holds it, the `agenda` of its dreams, these `dreams`, which of them were `kept`, their
        `rewards` and `gains`, `scores`, `replies` and `recall`.
    """

    now: Self
    evening: Self
    consolidated: Self
    record: dict[str, Any]

    @property
    def state(self) -> dict[str, Any]:
        """The arrays."""
        return {name: getattr(self, name) for name in ("now", "evening", "consolidated")}

    def day(self, index: int) -> dict[str, Any]:
        """What is on record of a day; empty before its first phase has written."""
        days = self.record["days"]
        return days[index] if index < len(days) else {}

    def note(self, label: str, **facts) -> "Night":
        """The night with facts of a phase on record."""
        phases = self.record["phases"]
        phases = phases | {label: phases.get(label, {}) | facts}
        return dataclasses.replace(self, record=self.record | {"phases": phases})

    def note_day(self, index: int, **facts) -> "Night":
        """The night with facts of a day on record."""
        days = [self.day(i) for i in range(max(index + 1, len(self.record["days"])))]
        days[index] = days[index] | facts
        return dataclasses.replace(self, record=self.record | {"days": days})


@dataclasses.dataclass(frozen=True)
class Desk:
    """Where a phase reports to: figures go to the writer and onto the progress bar, and how far it
    has got into the bookmark; the meter says what its updates cost, and the pace what the run will
    take. A phase that keeps no bookmark ends where the watch is asked for it, and begins anew when
    the run goes on."""

    writer: MetricWriter
    label: str
    quiet: bool | None = None
    bookmark: Bookmark | None = None
    meter: Meter = UNMEASURED
    watch: Watch | None = None
    pace: Pace | None = None

    @contextlib.contextmanager
    def bar(self, total: int, unit: str):
        """The progress bar of the phase."""
        with phase_progress(self.label, total, unit, quiet=self.quiet) as bar:
            if self.watch is not None:
                bar.on_advance = functools.partial(self._heed, total, unit)
            yield bar

    def _heed(self, total: int, unit: str, done: int) -> None:
        if done < total and self.watch.is_asked():  # a phase that is over is saved first
            raise Preempted(f"{done} of {total} {unit}s of {self.label}, which begins anew")

    def scalars(self, step: int, figures: dict[str, Any]) -> None:
        """Records figures of a step."""
        self.writer.scalars(self.label, step, figures)

    def update(self, step: int, figures: Figures) -> None:
        """Records figures of an update, of whatever kind."""
        numbers = {k: x for k, x in figures.items() if not isinstance(x, str | list)}
        self.scalars(step, numbers)
        for name, x in figures.items():
            if isinstance(x, list):
                self.writer.histogram(self.label, step, name, x)
            elif isinstance(x, str):
                self.writer.text(self.label, step, name, x)


def awake(sleeper: Sleeper, night: Night, documents: Sequence[Document]) -> Teacher:
    """The self that has read: as in the evening, with documents in its context."""
    return _reader(sleeper, sleeper.cfg, night.evening.on(sleeper.params), documents)


def teachers(sleeper: Sleeper, night: Night, documents: Sequence[Document]) -> list[Teacher]:
    """The self that has read and, in general Knowledge Seeding, other checkpoints that have."""
    own, *weights = sleeper.config.seeding.teacher_weights
    others = [
        dataclasses.replace(_reader(sleeper, cfg, {"params": params}, documents), weight=weight)
        for (cfg, params), weight in zip(sleeper.others, weights)
    ]
    return [dataclasses.replace(awake(sleeper, night, documents), weight=own), *others]


def by_heart(sleeper: Sleeper, self: Self) -> Teacher:
    """A self with no document in view."""
    variables = self.on(sleeper.params)
    return Teacher(sleeper.cfg, variables, read(sleeper.cfg, variables, [()])[0])


def _reader(sleeper: Sleeper, cfg: DecoderConfig, variables, documents) -> Teacher:
    contexts = [*map(sleeper.prompts.context, documents), ()]
    return Teacher(cfg, variables, read(cfg, variables, contexts)[0])


def key_of(sleeper: Sleeper, step: Step):
    """A PRNG key of its own for every phase of a run; the phases of one dreaming share theirs."""
    return jax.random.fold_in(jax.random.key(sleeper.config.seed), step.number)
