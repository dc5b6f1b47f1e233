"""Checkpoints within a phase, saved every few updates, from which a phase that was stopped resumes
and ends with the same bits.

They are in `workdir/mid_phase`, as those of finished phases are in `workdir/checkpoints`, and are
removed when the phase has ended and its own checkpoint is on disk.
"""

import time
from typing import Any

from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.runtime.preemption import Preempted, Watch


class MidPhaseCheckpoint:
    """Saves and restores the state of one phase.

    Args:
      saved: checkpoints within phases.
      label: of the phase.
      every: updates, or sampled batches, between two checkpoints; 0: only when the run is asked to
        stop.
      watch: tells whether it is; None: never.
      finished: checkpoints of the finished phases, the last of which may still be being written.
    """

    def __init__(
        self,
        saved: PhaseCheckpoints,
        label: str,
        every: int,
        watch: Watch | None,
        finished: PhaseCheckpoints | None = None,
    ):
        self._saved, self._label, self._every, self._watch = saved, label, every, watch
        self._finished = finished
        self._last_saved = 0
        self._should_stop = False
        self._start, self._earlier_seconds = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """How long the phase has taken, including what it resumed from."""
        return self._earlier_seconds + time.monotonic() - self._start

    def find(self, abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """(updates done, state, facts) of the last checkpoint; None where the phase starts anew.

        Args:
          abstract_state: as for `PhaseCheckpoints.restore`.
        """
        latest = self._saved.latest(may_lose=True)
        if latest is None or latest[1] != self._label:
            if self._finished is not None:
                # Until then these checkpoints may be the only ones of the phase before.
                self._finished.wait()
            self._saved.clear()
            return None
        self._last_saved = latest[0]
        state, record = self._saved.restore(self._last_saved, abstract_state)
        self._earlier_seconds = record["seconds"]
        return self._last_saved, state, record["facts"]

    def is_due(self, done: int) -> bool:
        """Whether to `keep` the state after `done` updates."""
        self._should_stop = self._watch is not None and self._watch.should_stop()
        return self._should_stop or 0 < self._every <= done - self._last_saved

    def keep(self, done: int, state: Any, facts: dict[str, Any], unit: str = "updates") -> None:
        """Starts to write a checkpoint; where the run was asked to stop, waits for it and ends.

        Args:
          done: number of updates done, or of another `unit`.
          state, facts: what `find` returns.
          unit: what `done` counts, plural.

        Raises:
          Preempted: the run was asked to stop.
          Exception: as `PhaseCheckpoints.wait`.
        """
        record = {"facts": facts, "seconds": self.seconds}
        self._saved.save(done, self._label, state=state, record=record)
        self._last_saved = done
        if self._should_stop:
            self._saved.wait()
            raise Preempted(f"{done} {unit} of {self._label}")
