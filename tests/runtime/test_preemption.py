"""SIGTERM once and twice."""

import os
import signal

import pytest

from sleep_jax.runtime import preemption
from sleep_jax.runtime.preemption import Watch


@pytest.fixture
def send_sigterm():
    """Sends SIGTERM to this process; restores the handler after the test."""
    before = signal.getsignal(signal.SIGTERM)
    yield lambda: os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


def test_watch_takes_two_quick_signals_as_one_and_ends_at_a_later_one(send_sigterm, monkeypatch):
    raised, now = [], 100.0
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    monkeypatch.setattr(preemption.time, "monotonic", lambda: now)
    watch = Watch()
    assert not watch.should_stop()
    send_sigterm()
    send_sigterm()
    assert watch.should_stop() and not raised
    now += 1.0
    send_sigterm()
    assert raised == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
