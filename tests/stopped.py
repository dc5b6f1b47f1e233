"""Runs that are stopped after the first state that they keep."""

from sleep_jax.runtime.mid_phase import MidPhaseCheckpoint


class Stop(Exception):
    pass


class StoppedAt(MidPhaseCheckpoint):
    """Stops the run after the first state that it keeps."""

    def keep(self, done, state, facts):
        super().keep(done, state, facts)
        self._saved.wait()
        raise Stop
