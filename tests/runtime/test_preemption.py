"""When a process is asked to stop once, and when twice."""

import os
import signal

import pytest

from sleep_jax.runtime import preemption
from sleep_jax.runtime.preemption import Watch


@pytest.fixture
def ask():
    """Sends SIGTERM to this process; it is listened to as before once the test is over."""
    before = signal.getsignal(signal.SIGTERM)
    yield lambda: os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


def test_watch_takes_two_quick_signals_as_one_and_ends_at_a_later_one(ask, monkeypatch):
    ended, now = [], 100.0
    monkeypatch.setattr(signal, "raise_signal", ended.append)
    monkeypatch.setattr(preemption.time, "monotonic", lambda: now)
    watch = Watch()
    assert not watch.should_stop()
    ask()
    ask()
    assert watch.should_stop() and not ended
    now += 1.0
    ask()
    assert ended == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
