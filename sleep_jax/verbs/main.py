"""The command `sleep-jax VERB RUN ...`, also `python -m sleep_jax VERB RUN ...`.

A verb is a module with two functions:

    add_arguments(parser: argparse.ArgumentParser)    its own arguments; RUN is there already
    run(arguments: argparse.Namespace) -> None        does it; `arguments.run` is the workdir

It is imported only when it is called for. An error that `run` raises for the user to fix
(ValueError, TypeError, OSError, UnrecoverableError) is printed in one line, or with `--debug` as a
traceback, and ends the process as `launch.py` ends.
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from sleep_jax.addresses import raising_store_errors
from sleep_jax.cli.errors import exit_status, warning_in_one_line
from sleep_jax.cli.interrupts import ending_quietly, is_reader_gone
from sleep_jax.cli.version import version
from sleep_jax.errors import UnrecoverableError
from sleep_jax.similar_name import similar_name

VERBS = {
    "ask": ("sleep_jax.verbs.ask", "ask the model of a run, with no document in view"),
    "chat": ("sleep_jax.verbs.chat", "a conversation with the model of a run"),
    "forget": ("sleep_jax.verbs.forget", "let a run forget days, or undo that"),
    "inspect": ("sleep_jax.verbs.inspect", "what a run did: its timeline, slots, curves, scores"),
    "export": (
        "sleep_jax.verbs.export",
        "the model of a run for other tools: hf, gguf, delta, peft",
    ),
}
HELP = ("-h", "--help", "help")


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line asks for.

    Args:
      argv: the arguments, by default those of the process.

    Returns:
      The exit status.

    Raises:
      SystemExit: after `--help`, wrong arguments or Ctrl-C, or where a verb ends with another
        status.
    """
    argv = [*(sys.argv[1:] if argv is None else argv)]
    if not argv or argv[0] not in VERBS:
        with ending_quietly():
            return _without_verb(argv)
    verb = importlib.import_module(VERBS[argv[0]][0])
    with ending_quietly():
        return _run(verb, _parser(argv[0], verb).parse_intermixed_args(argv[1:]))


def _without_verb(argv: Sequence[str]) -> int:
    """`--help`, `--version`, or an error; returns the exit status."""
    if argv == ["--version"]:
        print(version())
        return 0
    if not argv or argv[0] in HELP:
        print(_overview())
        return 0
    near = similar_name(argv[0], VERBS)
    remedy = f"did you mean {near}?" if near else f"there is {', '.join(VERBS)}"
    print(f"error: {argv[0]!r}: no such verb; {remedy}", file=sys.stderr)
    return 2


def _overview() -> str:
    """The text of `--help` without a verb."""
    width = max(map(len, VERBS))
    verbs = [f"  {name:<{width}}  {about}" for name, (_, about) in VERBS.items()]
    usage = f"usage: {_program()} VERB RUN ..."
    return "\n".join(
        [usage, "", "Uses a run of launch.py; RUN is its workdir.", "", "verbs:", *verbs, ""]
        + [f"{_program()} VERB --help says more."]
    )


def _program() -> str:
    """What the command was called as."""
    name = os.path.basename(sys.argv[0])
    return name if name == "sleep-jax" else "python -m sleep_jax"


def _parser(name: str, verb: ModuleType) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{_program()} {name}",
        description=VERBS[name][1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", type=os.path.expanduser, help="the workdir of a run")
    verb.add_arguments(parser)
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of an error in the command"
    )
    return parser


def _run(verb: ModuleType, arguments: argparse.Namespace) -> int:
    try:
        with warning_in_one_line(), raising_store_errors(arguments.run):
            verb.run(arguments)
    except (ValueError, TypeError, OSError, UnrecoverableError) as error:
        if isinstance(error, BrokenPipeError) and is_reader_gone():
            raise
        if arguments.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return exit_status(error)
    return 0
