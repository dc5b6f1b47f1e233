"""Where a phase that takes long has got to, kept every so many updates, so that one which was
stopped in its midst goes on there and ends with the same bits.

`workdir/mid_phase` holds checkpoints of the phase under way as `workdir/checkpoints` holds those of
finished ones; they go when it is finished and its own checkpoint is safe.
"""

import time
from typing import Any

from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.runtime.preemption import Preempted, Watch


class MidPhaseCheckpoint:
    """Keeps and finds the state of one phase.

    Args:
      saved: where.
      label: of the phase.
      every: updates, or batches that are sampled, after which to keep it again; 0: only when the
        run is asked to stop.
      watch: says when it is; None: never.
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
        self._kept = 0
        self._is_asked = False
        self._begun, self._before = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """How long the phase has taken, what came of earlier attempts included."""
        return self._before + time.monotonic() - self._begun

    def find(self, abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """(updates done, state, facts) as they were kept; None where the phase begins anew.

        Args:
          abstract_state: as for `PhaseCheckpoints.restore`.
        """
        latest = self._saved.latest(may_lose=True)
        if latest is None or latest[1] != self._label:
            if self._finished is not None:
                self._finished.wait()  # what is there may be all that is left of the phase before
            self._saved.clear()
            return None
        self._kept = latest[0]
        state, record = self._saved.restore(self._kept, abstract_state)
        self._before = record["seconds"]
        return self._kept, state, record["facts"]

    def is_due(self, done: int) -> bool:
        """Whether to `keep` what is there after `done` updates."""
        self._is_asked = self._watch is not None and self._watch.should_stop()
        return self._is_asked or 0 < self._every <= done - self._kept

    def keep(self, done: int, state: Any, facts: dict[str, Any], unit: str = "updates") -> None:
        """Begins to write it, and ends the run, once it is written, where it was asked to stop.

        Args:
          done: so many of `unit`.
          state, facts: as `find` gives them back.
          unit: what is counted, in words.

        Raises:
          Preempted: it was.
          Exception: as `PhaseCheckpoints.wait`.
        """
        record = {"facts": facts, "seconds": self.seconds}
        self._saved.save(done, self._label, state=state, record=record)
        self._kept = done
        if self._is_asked:
            self._saved.wait()
            raise Preempted(f"{done} {unit} of {self._label}")
