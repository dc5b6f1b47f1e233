"""What a night says of its updates, where it goes on after a stop, and when it gives up."""

from collections.abc import Callable
from typing import Any, Protocol

Log = Callable[[int, dict[str, float]], None]


class NotFinite(RuntimeError):
    """What a night computes are no numbers; the memory stays what it was before."""


class Bookmark(Protocol):
    """Keeps how far a night has got (`runtime.bookmark`)."""

    def find(self, abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """(updates done, state, facts) of an attempt that was stopped, if there is one."""

    def is_due(self, done: int) -> bool:
        """Whether to keep what is there after `done` updates."""

    def keep(self, done: int, state: Any, facts: dict[str, Any]) -> None:
        """Keeps it; may end the run."""


class Record:
    """Logs an update while the next one is computed, and stops a night that has gone wrong.

    Attributes:
      told: what was logged, as (step, figures).
    """

    def __init__(self, log: Log, max_skipped: int):
        self.told: list[tuple[int, dict[str, float]]] = []
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
        self.tell(step, {name: float(value) for name, value in metrics.items()} | more)

    def tell(self, step: int, figures: dict[str, float]) -> None:
        """Logs an update whose figures are known; raises as `flush` does."""
        self.told.append((step, figures))
        self._log(step, figures)
        self._skipped = self._skipped + 1 if figures["skipped"] else 0
        if self._skipped > self._max_skipped:
            raise NotFinite(
                f"update {step} is number {self._skipped} in a row that is not finite, more than "
                f"seeding.max_skipped={self._max_skipped}; lower seeding.learning_rate "
                "(dreaming.learning_rate in a dream) or set model.dtype='float32'. The memory is "
                "what it was before this phase"
            )
