"""Commands that are interrupted, or whose output nobody reads, end without a traceback."""

import os
import signal
import subprocess
import sys
import time

import pytest

from sleep_jax.cli import interrupts

COMMANDS = {
    "launch": ("launch.py", "--config=configs/sleep_tiny.py"),
    "inspect": ("-m", "sleep_jax", "inspect", "/nowhere"),
}


def start(*arguments, code=None, **variables):
    """A process of `python ARGUMENTS`, or of some code, with these environment variables."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": ""} | variables
    words = arguments if code is None else ("-c", code)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *words], stdout=pipe, stderr=pipe, env=environment)


@pytest.mark.parametrize("command", COMMANDS)
def test_interrupt_while_modules_are_imported_has_no_traceback(command, tmp_path):
    # The first import of the command shows that it has begun.
    process = start("-X", "importtime", *COMMANDS[command])
    for line in process.stderr:
        if b"sleep_jax.cli.interrupts" in line:
            break
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stderr = process.stderr.read()
    assert process.wait(timeout=60) in (-signal.SIGINT, interrupts.INTERRUPTED)
    assert b"Traceback" not in stderr and b"KeyboardInterrupt" not in stderr


def test_interrupt_of_a_command_ends_with_its_status_and_a_remark(capsys):
    before = signal.getsignal(signal.SIGINT)
    try:
        interrupts.loads_quietly()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        with pytest.raises(SystemExit) as ended, interrupts.ending_quietly("stopped here"):
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == 130 and capsys.readouterr().err == "stopped here\n"


def test_loads_quietly_keeps_a_handler_that_ignores_interrupts():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupts.loads_quietly()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "arguments",
    [
        ("launch.py", "--help"),
        ("launch.py", "--version"),
        ("launch.py", "--config=configs/sleep_tiny.py", "--plan=50"),
        ("launch.py", "--sweep=configs/sweeps/alpha_tiny.py", "--sweep_print"),
        ("launch.py", "--config=configs/sleep_tiny.py", "--dry_run"),
        ("-m", "sleep_jax", "--help"),
        ("-m", "sleep_jax", "inspect", "--help"),
    ],
)
def test_command_whose_reader_is_gone_ends_without_output(arguments):
    process = start(*arguments)
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(timeout=60) in (0, interrupts.UNREAD) and stderr == b""


def test_broken_pipe_of_something_else_is_raised():
    with pytest.raises(BrokenPipeError, match="a socket"), interrupts.ending_quietly():
        raise BrokenPipeError("a socket")


@pytest.mark.parametrize(
    "variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"}]
)
def test_terminal_without_unicode_gets_replacement_characters(variables):
    code = (
        "from sleep_jax.cli.interrupts import ending_quietly\n"
        "from sleep_jax.runtime.progress import phase_progress, say, table\n"
        "with ending_quietly():\n"
        "    say('caf\\u00e9 \\ud800')\n"
        "    table('\\u4eac', ['\\u00e9'], [['\\u2581\\u2588']])\n"
        "    with phase_progress('wake', 1):\n        pass\n"
        "    print('\\ud800')\n"
    )
    process = start(code=code, PYTHONUTF8="0", **variables)
    out, stderr = process.communicate(timeout=60)
    assert process.returncode == 0 and stderr == b"", stderr
    if "PYTHONIOENCODING" in variables:
        assert out.startswith(b"caf? ?\n")


def test_summary_is_shown_on_an_ascii_terminal():
    code = (
        "from sleep_jax.report.summary import show_summary\n"
        "from sleep_jax.cli.interrupts import ending_quietly\n"
        "words = dict(question='caf\\u00e9?', document='\\u2581a', answer='b\\ud800')\n"
        "words |= dict(before='\\u4eac', after='x')\n"
        "summary = dict(verdict='kept', scores=[], recall=[], kept=[])\n"
        "summary |= dict(phases=[], samples=[words])\n"
        "with ending_quietly():\n    show_summary(summary)\n"
    )
    process = start(code=code, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    out, stderr = process.communicate(timeout=60)
    assert process.returncode == 0 and stderr == b"", stderr
    assert all(shown in out for shown in (b"caf??", b"?a", b"b?", b"after sleep"))


def test_command_with_debug_ends_with_keyboard_interrupt(tmp_path):
    (tmp_path / "a.py").write_text(
        "import ml_collections\nget_config = ml_collections.ConfigDict\n"
    )
    code = (
        "from sleep_jax.cli.interrupts import loads_quietly\n"
        "loads_quietly()\n"
        "import os, signal\n"
        "from sleep_jax.cli.flags import run_with_config\n"
        "def work(_):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    finally:\n"
        "        print('cleaned up', flush=True)\n"
        f"argv = ['launch.py', '--config={tmp_path}/a.py', '--debug']\n"
        "run_with_config(lambda *x: x, work, about='', argv=argv)\n"
    )
    out, stderr = start(code=code).communicate(timeout=60)
    assert out == b"cleaned up\n" and b"KeyboardInterrupt" in stderr
