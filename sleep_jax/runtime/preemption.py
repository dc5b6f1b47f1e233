"""When a machine is about to be taken away: the run notices, keeps what it has and ends with a
status that schedulers start again.

A first SIGTERM asks for that; another one, a second or more after it, ends the process at once.
Several processes agree on the update after which they stop (`jax.distributed` watches the signal
then).
"""

import signal
import time

import jax
from jax.experimental import multihost_utils

STATUS = 75  # EX_TEMPFAIL: try again
# What stops a whole group of processes (timeout, srun) reaches one of them by several ways at once.
SECONDS_OF_ONE_REQUEST = 1.0


class Preempted(SystemExit):
    """The run was asked to stop and has kept all that it needs to go on."""

    def __init__(self, where: str):
        super().__init__(STATUS)
        self.where = where


class Watch:
    """Listens for SIGTERM."""

    def __init__(self):
        self._asked: float | None = None
        self._polls = 0
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_) -> None:
        now = time.monotonic()
        if self._asked is None:
            self._asked = now
        elif now - self._asked >= SECONDS_OF_ONE_REQUEST:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)

    def should_stop(self) -> bool:
        """Whether to stop here; all processes have to ask equally often, and get one answer."""
        if jax.process_count() == 1:
            return self._asked is not None
        self._polls += 1
        return multihost_utils.reached_preemption_sync_point(self._polls)
