import os
import pty
import re
import subprocess
import sys

import pytest

from sleep_jax.runtime import progress
from sleep_jax.runtime.preemption import Preempted
from sleep_jax.runtime.progress import clock, figure, phase_progress, printable, table


@pytest.fixture(autouse=True)
def talkative(monkeypatch):
    monkeypatch.delenv("SLEEP_JAX_QUIET", raising=False)


@pytest.fixture
def seconds(monkeypatch):
    """A clock that the test turns: seconds[0] is now."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_log_gets_a_line_at_start_every_half_minute_and_end(capsys, seconds):
    with phase_progress("consolidate", total=100) as bar:
        for step in range(100):
            seconds[0] += 1.0
            bar.advance(kl=1 / (step + 1))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "consolidate: starts, 100 steps to do",
        "consolidate: 30/100 steps  kl 0.0333  0:30 elapsed  1:10 left",
        "consolidate: 60/100 steps  kl 0.0167  1:00 elapsed  0:40 left",
        "consolidate: 90/100 steps  kl 0.0111  1:30 elapsed  0:10 left",
        "consolidate: done  100/100 steps  kl 0.01  1:40",
    ]


def test_count_has_no_plural_for_one_step(capsys):
    with phase_progress("write", total=1):
        pass
    assert capsys.readouterr().out.splitlines()[0] == "write: starts, 1 step to do"


def test_seconds_left_ignores_the_first_unit(seconds):
    with phase_progress("dream", total=11, quiet=True) as bar:
        assert bar.seconds_left is None
        seconds[0] += 60.0  # Compiling, and the first step.
        bar.advance()
        assert bar.seconds_left is None
        seconds[0] += 2.0
        bar.advance()
        assert bar.seconds_left == 18.0


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (Preempted("1 dreams of dream"), "preempted"),
        (OSError("disk full"), "stopped by OSError"),
    ],
)
def test_phase_progress_of_an_unfinished_phase_prints_how_far_it_came(capsys, error, ending):
    with pytest.raises(type(error)), phase_progress("dream", total=3, unit="dream") as bar:
        bar.advance()
        raise error
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("dream: 1/3 dreams") and last.endswith(f"  {ending}")


def test_quiet_prints_nothing(capsys, monkeypatch):
    with phase_progress("wake", total=1, quiet=True) as bar:
        bar.advance()
    monkeypatch.setenv("SLEEP_JAX_QUIET", "1")
    with phase_progress("wake") as bar:
        bar.advance(5)
    table("t", ["a"], [["b"]])
    assert bar.done == 5
    assert capsys.readouterr().out == ""


def test_table_in_a_log_is_uncut_and_without_colours(capsys):
    long = "word " * 60 + "[bold]end[/bold]"
    table("Answers", ["question", "right"], [[long, 0.25], ["short", 12345]])
    out = capsys.readouterr().out
    assert long in out and "\x1b" not in out
    lines = [line for line in out.splitlines() if "0.25" in line or "12,345" in line]
    assert len({len(line) for line in lines}) == 1  # Numbers end in one column.


def test_control_characters_are_replaced(capsys):
    table("What [/b] \x1b is it?", ["reply"], [["\x1b[2J\x00 an \x14answer\r"]])
    out = capsys.readouterr().out
    assert "What [/b] \ufffd is it?" in out
    assert "\ufffd[2J\ufffd an \ufffdanswer\ufffd\n" in out
    assert printable("a line\nand a\ttab") == "a line\nand a\ttab"
    assert printable("half a \ud83d pair, \U0001f600") == "half a \ufffd pair, \U0001f600"


def test_table_does_not_wrap_short_columns_on_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    text = "a detail of many words that has to wrap somewhere " * 3
    names = ("phase", "questions", "paraphrases", "programs")
    table("t", (*names, "detail"), [("consolidate-2", 0.5, 0.25, 12, text)] * 2)
    out = capsys.readouterr().out
    assert all(name in out for name in (*names, "consolidate-2"))


def test_metric_without_a_value_is_a_dash():
    with phase_progress("consolidate", quiet=True) as bar:
        bar.advance(kl=0.5, reward=None)
        assert bar.words() == "kl 0.5  reward -"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.31234, "0.312"), (7, "7"), (7.0, "7"), (12345.6, "12,346"), (2e-6, "2e-06"),
        (float("nan"), "nan"), (float("-inf"), "-inf"), (None, ""), ("44 %", "44 %"),
    ],
)  # fmt: skip
def test_figure_is_short(value, words):
    assert figure(value) == words


def test_clock():
    assert [clock(s) for s in (0, 59.6, 3723)] == ["0:00", "1:00", "1:02:03"]


def test_terminal_gets_a_live_bar_and_one_closing_line():
    script = (
        "from sleep_jax.runtime.progress import phase_progress\n"
        "with phase_progress('dream', total=2, unit='dream') as bar:\n"
        "    bar.advance(reward=0.5)\n    bar.advance(reward=1.0)\n"
    )
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=theirs, env=environment)
    os.close(theirs)
    seen = b""
    try:
        while block := os.read(ours, 4096):
            seen += block
    except OSError:  # Linux says so when the other end is closed.
        pass
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert "━" in text and "2/2 dreams" in text
    assert text.rstrip().splitlines()[-1].endswith("dream: done  2/2 dreams  reward 1  0:00")
