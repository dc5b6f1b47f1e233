"""Where a phase reports to, and when it ends."""

import pytest

from sleep_jax.phases.run_state import PhaseLogger
from sleep_jax.runtime.preemption import Preempted


def test_phase_without_mid_phase_checkpoint_stops_before_its_last_step():
    class Asked:
        def should_stop(self):
            return True

    logger = PhaseLogger(None, "study", quiet=True, watch=Asked())
    with pytest.raises(Preempted) as stopped, logger.bar(2, "step") as bar:
        bar.advance(1)
    assert "1 of 2 steps of study, which begins anew" in stopped.value.where
    with logger.bar(2, "step") as bar:
        bar.advance(2)
    with PhaseLogger(None, "consolidate", quiet=True).bar(2, "step") as bar:
        bar.advance(1)
