"""What a night says of its updates, where it goes on after a stop, and when it gives up."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sleep_jax.errors import UnrecoverableError

# A figure is a number or, of rollouts, a list of numbers or words.
Figures = dict[str, Any]
Log = Callable[[int, Figures], None]


class NotFinite(UnrecoverableError):
    """What a night computes are no numbers; the memory stays what it was before."""


class MidPhaseCheckpoint(Protocol):
    """Keeps how far a night has got (`runtime.mid_phase`)."""

    def find(self, abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """(updates done, state, facts) of an attempt that was stopped, if there is one."""

    def is_due(self, done: int) -> bool:
        """Whether to keep what is there after `done` updates."""

    def keep(self, done: int, state: Any, facts: dict[str, Any], unit: str = "updates") -> None:
        """Keeps it; may end the run."""


class StepTimer(Protocol):
    """Takes the time of updates (`runtime.step_timer`)."""

    def begin(self, step: int) -> None:
        """A turn of the loop begins; it ends with update `step` under way."""

    def lap(self, part: str) -> None:
        """What passed since the last call, or the beginning, went to this part of the turn."""

    def end(self, sequences: Sequence[tuple[int, int, int]]) -> dict[str, float]:
        """The turn is over; its figures. Of every sequence: the tokens that it follows, its own,
        those that are scored."""

    def finished(self, step: int) -> None:
        """Update `step` is known to be over."""


class TimeEstimate(Protocol):
    """Says how long a run will take (`forecast.timing`)."""

    def studied(self, seconds: float) -> None:
        """A study took so long."""

    def updated(self, day: int, seconds: float) -> None:
        """An update of the night of a day took so long."""


class NoTimer:
    """A timer that takes no time."""

    def begin(self, step: int) -> None:
        """Does nothing, like the next two."""

    def lap(self, part: str) -> None:
        pass

    def end(self, sequences: Sequence[tuple[int, int, int]]) -> dict[str, float]:
        """No figures."""
        return {}

    def finished(self, step: int) -> None:
        pass


NO_TIMER = NoTimer()


class Record:
    """Logs an update while the next one is computed, and stops a night that has gone wrong.

    Attributes:
      told: what was logged, as (step, figures).
    """

    def __init__(self, log: Log, max_consecutive_errors: int, timer: StepTimer):
        self.told: list[tuple[int, Figures]] = []
        self._log, self._max_consecutive_errors, self._meter = log, max_consecutive_errors, timer
        self._skipped = 0  # updates in a row
        self._last = None

    def add(self, step: int, metrics, more: Figures, sequences: Sequence[tuple[int, int, int]]):
        """Takes the metrics of an update, which may still be under way, and ends its turn.

        Args:
          step: of the update.
          metrics: scalars on the device.
          more: other figures.
          sequences: that it learns from, as for `StepTimer.end`.
        """
        self.flush()
        self._last = step, metrics, more | self._meter.end(sequences)

    def flush(self) -> None:
        """Waits for the last update and logs it.

        Raises:
          NotFinite: there were too many in a row that are not finite.
        """
        if self._last is None:
            return
        (step, metrics, more), self._last = self._last, None
        figures = {name: float(value) for name, value in metrics.items()} | more
        self._meter.finished(step)
        self.tell(step, figures)

    def tell(self, step: int, figures: Figures) -> None:
        """Logs an update whose figures are known; raises as `flush` does."""
        self.told.append((step, figures))
        self._log(step, figures)
        self._skipped = self._skipped + 1 if figures["skipped"] else 0
        if self._skipped > self._max_consecutive_errors:
            raise NotFinite(
                f"update {step} is number {self._skipped} in a row that is not finite, more than "
                f"seeding.max_consecutive_errors={self._max_consecutive_errors}; lower "
                "seeding.learning_rate (dreaming.learning_rate in a dream) or set "
                "model.dtype='float32'. The memory is what it was before this phase"
            )
