"""What a phase is given by the job that runs it: where it logs, keeps its place and is timed.

Interfaces only; `runtime/` and `forecast/` implement them, so that algorithms import neither.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

# Figures of an update by name: a number or, of rollouts, a list of numbers or a text.
Figures = dict[str, Any]
Log = Callable[[int, Figures], None]


class MidPhaseCheckpoint(Protocol):
    """Keeps how far a phase has got (`runtime.mid_phase`)."""

    def find(self, abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """(updates done, state, facts) of an earlier attempt that was preempted; None: begin at 0.

        Args:
          abstract_state: a pytree with the shapes and shardings of the state.
        """

    def is_due(self, done: int) -> bool:
        """Whether to keep the state after `done` updates."""

    def keep(self, done: int, state: Any, facts: dict[str, Any], unit: str = "updates") -> None:
        """Keeps a state and JSON-able facts; ends the run where it was asked to stop."""


class StepTimer(Protocol):
    """Takes the time of updates (`runtime.step_timer`)."""

    def begin(self, step: int) -> None:
        """A turn of the loop begins; when it ends, update `step` has been dispatched."""

    def lap(self, part: str) -> None:
        """Adds the time since the last call, or since `begin`, to a part of the turn."""

    def end(self, sequences: Sequence[tuple[int, int, int]]) -> dict[str, float]:
        """Ends the turn and returns its figures by name.

        Args:
          sequences: of the update, each as (tokens before it, its own tokens, its target tokens).
        """

    def finished(self, step: int) -> None:
        """Update `step` is known to have finished on the device."""


class TimeEstimate(Protocol):
    """Says how long a run will take (`forecast.timing`)."""

    def add_study(self, seconds: float) -> None:
        """Takes note of how long a study phase took."""

    def add_update(self, day: int, seconds: float) -> None:
        """Takes note of how long a seeding update of the night after a day took."""


class NoTimer:
    """A `StepTimer` that measures nothing."""

    def begin(self, step: int) -> None:
        """Does nothing, like the other methods."""

    def lap(self, part: str) -> None:
        pass

    def end(self, sequences: Sequence[tuple[int, int, int]]) -> dict[str, float]:
        """No figures."""
        return {}

    def finished(self, step: int) -> None:
        pass


NO_TIMER = NoTimer()
