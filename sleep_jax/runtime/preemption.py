"""Preemption: after a SIGTERM a run saves a checkpoint and ends so that schedulers restart it.

A second SIGTERM, one second or more after the first, ends the process at once. Several processes
agree on the update after which they stop; `jax.distributed` handles the signal then.
"""

import signal
import time

import jax
from jax.experimental import multihost_utils

STATUS = 75  # EX_TEMPFAIL: try again
# One request to stop a group of processes (timeout, srun) may reach a process more than once.
SECONDS_OF_ONE_REQUEST = 1.0


class Preempted(SystemExit):
    """The run was asked to stop and has saved what it needs to resume."""

    def __init__(self, where: str):
        super().__init__(STATUS)
        self.where = where


class Watch:
    """Handles SIGTERM."""

    def __init__(self):
        self._request_time: float | None = None
        self._polls = 0
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, *_) -> None:
        now = time.monotonic()
        if self._request_time is None:
            self._request_time = now
        elif now - self._request_time >= SECONDS_OF_ONE_REQUEST:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)

    def should_stop(self) -> bool:
        """Whether to stop here; all processes have to call it equally often and get one answer."""
        if jax.process_count() == 1:
            return self._request_time is not None
        self._polls += 1
        return multihost_utils.reached_preemption_sync_point(self._polls)
