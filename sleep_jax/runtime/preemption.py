"""When a machine is about to be taken away: the run notices, keeps what it has and ends with a
status that schedulers start again.

A first SIGTERM asks for that; a second one ends the process at once. Several processes agree on the
update after which they stop (`jax.distributed` watches the signal then).
"""

import signal

import jax
from jax.experimental import multihost_utils

STATUS = 75  # EX_TEMPFAIL: try again


class Preempted(SystemExit):
    """The run was asked to stop and has kept all that it needs to go on."""

    def __init__(self, where: str):
        super().__init__(STATUS)
        self.where = where


class Watch:
    """Listens for SIGTERM."""

    def __init__(self):
        self._is_asked = False
        self._polls = 0
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_) -> None:
        self._is_asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def is_asked(self) -> bool:
        """Whether to stop here; all processes have to ask equally often, and get one answer."""
        if jax.process_count() == 1:
            return self._is_asked
        self._polls += 1
        return multihost_utils.reached_preemption_sync_point(self._polls)
