import subprocess
import sys
import types

import pytest

from sleep_jax.errors import UnrecoverableError
from sleep_jax.verbs import main as command


def fake_verb(monkeypatch, run, add_arguments=lambda parser: None):
    """Makes `nap` a verb that does `run(arguments)`."""
    module = types.ModuleType("nap")
    module.add_arguments, module.run = add_arguments, run
    monkeypatch.setitem(sys.modules, "nap", module)
    monkeypatch.setitem(command.VERBS, "nap", ("nap", "rests a while"))


def test_main_without_a_verb_lists_all_verbs(capsys):
    assert command.main([]) == command.main(["--help"]) == command.main(["help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in command.VERBS)


@pytest.mark.parametrize(
    ("verb", "words"), [("inspetc", "did you mean inspect?"), ("zzz", "there is ask, chat")]
)
def test_main_of_an_unknown_verb_names_the_nearest_or_all(verb, words, capsys):
    assert command.main([verb, "RUN"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: '{verb}': no such verb; ") and words in error


def test_main_expands_the_run_and_takes_options_between_positional_arguments(monkeypatch):
    called = []
    monkeypatch.setenv("HOME", "/somewhere")

    def add_arguments(parser):
        parser.add_argument("words", nargs="*")
        parser.add_argument("--loud", action="store_true")

    fake_verb(monkeypatch, called.append, add_arguments)
    assert command.main(["nap", "~/run", "--loud", "one", "two"]) == 0
    [arguments] = called
    assert arguments.run == "/somewhere/run" and arguments.words == ["one", "two"]
    assert arguments.loud and not arguments.debug


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("day 9"), 2),
        (FileNotFoundError("no run"), 2),
        (ConnectionError("no answer"), 1),
        (UnrecoverableError("full"), 2),
    ],
)
def test_main_prints_an_error_of_a_verb_in_one_line(monkeypatch, capsys, error, status):
    def run(arguments):
        raise error

    fake_verb(monkeypatch, run)
    assert command.main(["nap", "run"]) == status
    assert capsys.readouterr().err == f"error: {error}\n"
    assert command.main(["nap", "run", "--debug"]) == status
    assert "Traceback" in capsys.readouterr().err


def test_main_shows_a_warning_once_and_in_one_line(monkeypatch, capsys):
    import warnings

    def run(arguments):
        warnings.warn("long", stacklevel=1)
        warnings.warn("long", stacklevel=1)

    fake_verb(monkeypatch, run)
    command.main(["nap", "run"])
    assert capsys.readouterr().err == "warning: long\n"


def test_help_imports_no_jax():
    code = (
        "import sys\n"
        "from sleep_jax.verbs.main import main\n"
        "main(['--help'])\n"
        "assert not {'jax', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
