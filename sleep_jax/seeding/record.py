"""What a night says of its updates, and when it gives up."""

from collections.abc import Callable

Log = Callable[[int, dict[str, float]], None]


class NotFinite(RuntimeError):
    """What a night computes are no numbers; the memory stays what it was before."""


class Record:
    """Logs an update while the next one is computed, and stops a night that has gone wrong."""

    def __init__(self, log: Log, max_skipped: int):
        self._log, self._max_skipped = log, max_skipped
        self._skipped = 0  # updates in a row
        self._last = None

    def add(self, step: int, metrics, more: dict[str, float]) -> None:
        """Takes the metrics of an update, which may still be under way."""
        self.flush()
        self._last = step, metrics, more

    def flush(self) -> None:
        """Waits for the last update and logs it.

        Raises:
          NotFinite: there were too many in a row that are not finite.
        """
        if self._last is None:
            return
        (step, metrics, more), self._last = self._last, None
        figures = {name: float(value) for name, value in metrics.items()}
        self._log(step, figures | more)
        self._skipped = self._skipped + 1 if figures["skipped"] else 0
        if self._skipped > self._max_skipped:
            raise NotFinite(
                f"update {step} is number {self._skipped} in a row that is not finite, more than "
                f"seeding.max_skipped={self._max_skipped}; lower seeding.learning_rate "
                "(dreaming.learning_rate in a dream) or set model.dtype='float32'. The memory is "
                "what it was before this phase"
            )
