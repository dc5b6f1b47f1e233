"""Checkpoints within a phase, and how a run is asked to stop."""

import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.runtime import mid_phase
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.runtime.mid_phase import MidPhaseCheckpoint
from sleep_jax.runtime.preemption import STATUS, Preempted, Watch


@pytest.fixture
def saved(tmp_path):
    with PhaseCheckpoints(tmp_path, keep=2) as saved:
        yield saved


@pytest.fixture
def watch():
    before = signal.getsignal(signal.SIGTERM)
    yield Watch()
    signal.signal(signal.SIGTERM, before)


def test_find_gives_the_latest_checkpoint_of_the_phase(saved, tmp_path):
    checkpoint = MidPhaseCheckpoint(saved, "consolidate", every=2, watch=None)
    assert checkpoint.find({"slot": jnp.zeros(3)}) is None
    for done in range(1, 8):
        if checkpoint.is_due(done):
            checkpoint.keep(done, {"slot": jnp.full(3, done)}, {"logged": [[done, {"loss": 0.5}]]})
    done, state, facts = MidPhaseCheckpoint(saved, "consolidate", 2, None).find(
        {"slot": jnp.zeros(3, int)}
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "6"]  # keep=2
    assert done == 6 and facts == {"logged": [[6, {"loss": 0.5}]]}
    np.testing.assert_array_equal(state["slot"], [6, 6, 6])
    assert MidPhaseCheckpoint(saved, "learn", 2, None).find({"slot": jnp.zeros(3)}) is None
    saved.clear()
    assert MidPhaseCheckpoint(saved, "consolidate", 2, None).find({"slot": jnp.zeros(3)}) is None


def test_seconds_include_earlier_attempts(saved, monkeypatch):
    now = 100.0
    monkeypatch.setattr(mid_phase.time, "monotonic", lambda: now)
    checkpoint = MidPhaseCheckpoint(saved, "consolidate", every=1, watch=None)
    now = 130.0
    checkpoint.keep(1, {"slot": jnp.zeros(3)}, {})
    now = 900.0  # stopped; what came after the checkpoint is lost
    resumed = MidPhaseCheckpoint(saved, "consolidate", every=1, watch=None)
    resumed.find({"slot": jnp.zeros(3)})
    now = 907.0
    assert resumed.seconds == 37.0


def test_is_due_counts_updates_since_the_last_save(saved):
    checkpoint = MidPhaseCheckpoint(saved, "consolidate", every=3, watch=None)
    assert [checkpoint.is_due(done) for done in (1, 2, 3, 4)] == [False, False, True, True]
    checkpoint.keep(4, {"slot": jnp.zeros(3)}, {})
    assert [checkpoint.is_due(done) for done in (5, 6, 7)] == [False, False, True]
    assert not MidPhaseCheckpoint(saved, "consolidate", every=0, watch=None).is_due(100)


def test_keep_saves_and_raises_when_the_run_should_stop(saved, watch):
    checkpoint = MidPhaseCheckpoint(saved, "consolidate", every=0, watch=watch)
    assert not checkpoint.is_due(1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert watch.should_stop() and checkpoint.is_due(2)
    with pytest.raises(Preempted) as stopped:
        checkpoint.keep(2, {"slot": jnp.ones(3)}, {})
    assert stopped.value.code == STATUS == 75 and "2 updates of consolidate" in stopped.value.where
    assert checkpoint.find({"slot": jnp.zeros(3)})[0] == 2


def test_checkpoints_within_a_phase_stay_until_its_own_is_written(saved, tmp_path):
    saved.save(4, "consolidate", state={"slot": jnp.zeros(3)}, record={})
    saved.wait()
    at_the_wait = []

    class Finished:
        def wait(self):
            at_the_wait.extend(path.name for path in tmp_path.iterdir())

    checkpoint = MidPhaseCheckpoint(saved, "learn", every=0, watch=None, finished=Finished())
    assert checkpoint.find({"slot": jnp.zeros(3)}) is None
    assert at_the_wait == ["4"] and not any(tmp_path.iterdir())
