"""What passes from phase to phase: the model's memory and the facts on record."""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from sleep_jax.data.documents import Document
from sleep_jax.experiment import Experiment
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.runtime.metrics import MetricWriter
from sleep_jax.runtime.preemption import Preempted, Watch
from sleep_jax.runtime.progress import phase_progress
from sleep_jax.seeding.sequences import Teacher
from sleep_jax.seeding.transaction import MemoryState
from sleep_jax.services import NO_TIMER, Figures, MidPhaseCheckpoint, StepTimer, TimeEstimate
from sleep_jax.wake.context import read


@dataclasses.dataclass(frozen=True)
class RunState:
    """What a phase leaves to the next; a checkpoint holds just this.

    Attributes:
      current: the model's memory as it is.
      before_sleep: as it was when the last day ended: with its documents, the teacher of the night.
      before_dreams: as it was before the last dreams.
      record: JSON-able facts: `phases` by label, and `days`, for each the sentences `left_out` of
        its documents, its `study`, the `slot` that holds it (none once it is `forgotten`), the
        `dream_contexts` of its dreams, these `dreams`, which of them were `kept`, their `rewards`
        and `gains`, `scores`, `replies` and `recall`.
    """

    current: MemoryState
    before_sleep: MemoryState
    before_dreams: MemoryState
    record: dict[str, Any]

    @property
    def arrays(self) -> dict[str, Any]:
        """The arrays of a checkpoint, by name."""
        return {name: getattr(self, name) for name in ("current", "before_sleep", "before_dreams")}

    def day(self, index: int) -> dict[str, Any]:
        """What is on record of a day; empty before its first phase has written."""
        days = self.record["days"]
        return days[index] if index < len(days) else {}

    def is_forgotten(self, index: int) -> bool:
        """Whether a day was forgotten (`phases.forgetting`)."""
        return "forgotten" in self.day(index)

    def note(self, label: str, **facts) -> "RunState":
        """The same with facts of a phase on record."""
        phases = self.record["phases"]
        phases = phases | {label: phases.get(label, {}) | facts}
        return dataclasses.replace(self, record=self.record | {"phases": phases})

    def note_day(self, index: int, **facts) -> "RunState":
        """The same with facts of a day on record."""
        days = [self.day(i) for i in range(max(index + 1, len(self.record["days"])))]
        days[index] = days[index] | facts
        return dataclasses.replace(self, record=self.record | {"days": days})


@dataclasses.dataclass(frozen=True)
class PhaseLogger:
    """Where a phase reports to.

    Attributes:
      writer: of the figures.
      label: of the phase.
      quiet: whether no progress bar is shown; None: as `phase_progress` decides.
      mid_phase: keeps how far the phase has got, and stops a phase that resumes from there.
      timer: measures its updates.
      watch: asked at every advance of the bar whether to stop; the phase then begins anew when the
        run is resumed. None for a phase that resumes.
      time_estimate: of the run.
    """

    writer: MetricWriter
    label: str
    quiet: bool | None = None
    mid_phase: MidPhaseCheckpoint | None = None
    timer: StepTimer = NO_TIMER
    watch: Watch | None = None
    time_estimate: TimeEstimate | None = None

    @contextlib.contextmanager
    def bar(self, total: int | None, unit: str):
        """The progress bar of the phase; a total of None is not known yet."""
        with phase_progress(self.label, total, unit, quiet=self.quiet) as bar:
            if self.watch is not None:
                bar.on_advance = functools.partial(self._heed, total, unit)
            yield bar

    def _heed(self, total: int, unit: str, done: int) -> None:
        if done < total and self.watch.should_stop():  # a phase that is over is saved first
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


def awake(experiment: Experiment, run: RunState, documents: Sequence[Document]) -> Teacher:
    """The model that has read: as it was before sleep, with documents in its context."""
    variables = run.before_sleep.variables(experiment.params)
    return reader(experiment, experiment.cfg, variables, documents)


def reader(
    experiment: Experiment, cfg: DecoderConfig, variables, documents: Sequence[Document]
) -> Teacher:
    """A model with documents in its context, a row each, and a last, empty one."""
    contexts = [*map(experiment.prompts.context, documents), ()]
    return Teacher(cfg, variables, read(cfg, variables, contexts)[0])
