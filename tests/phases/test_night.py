"""Where a phase reports to, and when it ends."""

import pytest

from sleep_jax.phases.night import Desk
from sleep_jax.runtime.preemption import Preempted


def test_a_phase_without_a_bookmark_heeds_the_watch_but_for_its_last_step():
    class Asked:
        def is_asked(self):
            return True

    desk = Desk(None, "study", quiet=True, watch=Asked())
    with pytest.raises(Preempted) as stopped, desk.bar(2, "step") as bar:
        bar.advance(1)
    assert "1 of 2 steps of study, which begins anew" in stopped.value.where
    with desk.bar(2, "step") as bar:
        bar.advance(2)
    with Desk(None, "consolidate", quiet=True).bar(2, "step") as bar:
        bar.advance(1)
