"""Logs the updates of a night and stops a night whose updates stay non-finite."""

from collections.abc import Sequence

from sleep_jax.errors import UnrecoverableError
from sleep_jax.services import Figures, Log, StepTimer


class NotFinite(UnrecoverableError):
    """The divergence or too many updates were not finite; the memory is what it was before."""


class UpdateLog:
    """Logs an update while the next one is computed, so that the device need not wait.

    Args:
      log: is given every update's step and figures.
      max_consecutive_errors: non-finite updates in a row that are let pass.
      timer: takes the time of updates.

    Attributes:
      logged: all updates so far, as (step, figures).
    """

    def __init__(self, log: Log, max_consecutive_errors: int, timer: StepTimer):
        self.logged: list[tuple[int, Figures]] = []
        self._log, self._max_consecutive_errors, self._timer = log, max_consecutive_errors, timer
        self._skipped = 0  # updates in a row
        self._pending = None

    def add(
        self, step: int, metrics, figures: Figures, sequences: Sequence[tuple[int, int, int]]
    ) -> None:
        """Logs the update before, takes the metrics of this one and ends its turn of the timer.

        Args:
          step: of the update, which may still be under way.
          metrics: scalars on the device.
          figures: other figures of the update.
          sequences: that it learns from, as for `StepTimer.end`.

        Raises:
          NotFinite: as `flush`.
        """
        self.flush()
        self._pending = step, metrics, figures | self._timer.end(sequences)

    def flush(self) -> None:
        """Waits for the last update and logs it.

        Raises:
          NotFinite: more than `max_consecutive_errors` updates in a row were not finite.
        """
        if self._pending is None:
            return
        (step, metrics, figures), self._pending = self._pending, None
        figures = {name: float(value) for name, value in metrics.items()} | figures
        self._timer.finished(step)
        self.log(step, figures)

    def log(self, step: int, figures: Figures) -> None:
        """Logs an update whose figures are on the host; raises as `flush` does."""
        self.logged.append((step, figures))
        self._log(step, figures)
        self._skipped = self._skipped + 1 if figures["skipped"] else 0
        if self._skipped > self._max_consecutive_errors:
            raise NotFinite(
                f"update {step} is number {self._skipped} in a row that is not finite, more than "
                f"seeding.max_consecutive_errors={self._max_consecutive_errors}; lower "
                "seeding.learning_rate (dreaming.learning_rate in a dream) or set "
                "model.dtype='float32'. The memory is what it was before this phase"
            )
