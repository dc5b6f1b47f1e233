"""How a command ends that nobody wants to hear more of."""

import os
import signal
import subprocess
import sys
import time

import pytest

from sleep_jax.cli import interrupts

COMMANDS = {
    "launch": ("launch.py", "--config=configs/sleep_tiny.py"),
    "inspect": ("-m", "sleep_jax.inspect", "/nowhere"),
}


def start(*arguments, code=None, **variables):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": ""} | variables
    words = arguments if code is None else ("-c", code)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *words], stdout=pipe, stderr=pipe, env=environment)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupt_while_modules_are_loaded_is_quiet(command, tmp_path):
    # The first import of the command shows that it has begun.
    process = start("-X", "importtime", *COMMANDS[command])
    for line in process.stderr:
        if b"sleep_jax.cli.interrupts" in line:
            break
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert process.wait(timeout=60) in (-signal.SIGINT, interrupts.INTERRUPTED)
    assert b"Traceback" not in said and b"KeyboardInterrupt" not in said


def test_an_interrupt_after_that_has_its_status_and_a_remark(capsys):
    before = signal.getsignal(signal.SIGINT)
    try:
        interrupts.loads_quietly()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        with pytest.raises(SystemExit) as ended, interrupts.quietly("stopped here"):
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == 130 and capsys.readouterr().err == "stopped here\n"


def test_loads_quietly_leaves_alone_who_ignores_interrupts():
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
        ("-m", "sleep_jax.inspect", "--help"),
    ],
)
def test_a_reader_that_goes_ends_a_command_quietly(arguments):
    process = start(*arguments)
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(timeout=60) in (0, interrupts.UNREAD) and said == b""


def test_a_pipe_that_breaks_elsewhere_is_not_hidden():
    with pytest.raises(BrokenPipeError, match="a socket"), interrupts.quietly():
        raise BrokenPipeError("a socket")


@pytest.mark.parametrize(
    "variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"}]
)
def test_a_terminal_without_unicode_gets_replacement_characters(variables):
    code = (
        "from sleep_jax.cli.interrupts import quietly\n"
        "from sleep_jax.runtime.progress import phase_progress, say, table\n"
        "with quietly():\n"
        "    say('caf\\u00e9 \\ud800')\n"
        "    table('\\u4eac', ['\\u00e9'], [['\\u2581\\u2588']])\n"
        "    with phase_progress('wake', 1):\n        pass\n"
        "    print('\\ud800')\n"
    )
    process = start(code=code, PYTHONUTF8="0", **variables)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0 and said == b"", said
    if "PYTHONIOENCODING" in variables:
        assert out.startswith(b"caf? ?\n")


def test_the_samples_of_a_run_are_shown_on_an_ascii_terminal():
    code = (
        "from sleep_jax import morning\n"
        "from sleep_jax.cli.interrupts import quietly\n"
        "words = dict(question='caf\\u00e9?', document='\\u2581a', answer='b\\ud800')\n"
        "words |= dict(before='\\u4eac', after='x')\n"
        "summary = dict(verdict='kept', scores=[], recall=[], phases=[], samples=[words])\n"
        "with quietly():\n    show_summary(summary)\n"
    )
    process = start(code=code, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0 and said == b"", said
    assert all(shown in out for shown in (b"caf??", b"?a", b"b?", b"after sleep"))


def test_a_command_that_shows_tracebacks_hears_an_interrupt(tmp_path):
    (tmp_path / "a.py").write_text(
        "import ml_collections\nget_config = ml_collections.ConfigDict\n"
    )
    code = (
        "from sleep_jax.runtime import ends\n"
        "ends.loads_quietly()\n"
        "import os, signal\n"
        "from sleep_jax.cli.flags import run_with_config\n"
        "def work(_):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    finally:\n"
        "        print('put away', flush=True)\n"
        f"argv = ['launch.py', '--config={tmp_path}/a.py', '--debug']\n"
        "run_with_config(lambda *x: x, work, about='', argv=argv)\n"
    )
    out, said = start(code=code).communicate(timeout=60)
    assert out == b"put away\n" and b"KeyboardInterrupt" in said
