"""The command line: `--config=FILE`, `--config.FIELD=VALUE`, `--workdir`, and words for mistakes.

ml_collections reads the config and its overrides; this module looks at them first, so that a
misspelt field is answered with the nearest one and not with a traceback.
"""

import contextlib
import os
import pathlib
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import ml_collections
from absl import flags
from ml_collections import config_flags

from sleep_jax.cli import interrupts
from sleep_jax.cli.config_files import config_first, fields, is_node, load, nearest
from sleep_jax.cli.help import HELP, OURS, help_text
from sleep_jax.cli.version import version
from sleep_jax.renamed_fields import RENAMED
from sleep_jax.setting import Setting

# Of what the machine says, this is for the user to mend; the rest (a network, a disk) may pass.
MISTAKES = (
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)
Plan = TypeVar("Plan")


def run_with_config(
    prepare: Callable[[ml_collections.ConfigDict, str], Plan],
    work: Callable[[Plan], Any],
    *,
    about: str,
    examples: Sequence[str] = (),
    argv: Sequence[str] | None = None,
    settings: Mapping[str, Setting] | None = None,
) -> Any:
    """Runs `work(prepare(config, workdir))` with what the command line says.

    What `prepare` raises is the user's to mend (a missing file, a workdir that cannot be written, a
    value out of range): ValueError, TypeError and OSError end in one line and exit status 2, with
    `--debug` in a traceback; an OSError that may pass by itself (a network, a disk) in status 1.
    What `work` raises is ours and keeps its traceback. Warnings to the user are told once, in one
    line, with `--debug` as Python does. Flags which the launching module defines with absl are
    parsed, and listed by `--help`, along with these.

    Args:
      prepare: checks all that can be wrong, before any long work.
      work: the long work.
      about: first paragraph of `--help`.
      examples: command lines that `--help` shows.
      argv: the command line, by default `sys.argv`.
      settings: what the fields of a config mean and may be, by name, for `--help`.

    Returns:
      What `work` returns.
    """
    argv = list(sys.argv if argv is None else argv)
    is_debug = "--debug" in argv
    remark = "stopped; the same command goes on where it was"
    interrupts.hears_again()
    with contextlib.ExitStack() as stack:
        if not is_debug:
            stack.enter_context(interrupts.quietly(remark))
            stack.enter_context(warnings.catch_warnings())  # afterwards they are shown as before
            warnings.showwarning = _once_and_plainly(warnings.showwarning)
        return work(_prepared(prepare, about, examples, argv, is_debug, settings))


def _prepared(prepare, about, examples, argv: list[str], is_debug: bool, settings) -> Any:
    try:
        if HELP & set(argv):
            print(help_text([arg for arg in argv if arg not in HELP], about, examples, settings))
            raise SystemExit(0)
        if "--version" in argv:
            print(version())
            raise SystemExit(0)
        return prepare(*parse(argv))
    except (ValueError, TypeError, OSError) as error:
        if isinstance(error, BrokenPipeError) and interrupts.is_unread():
            raise
        if is_debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(exit_status(error)) from None


def exit_status(error: Exception) -> int:
    """1 of what may pass by itself (a network, a disk), so that another start makes sense; 2 of
    what the user has to mend."""
    return 1 if isinstance(error, OSError) and not isinstance(error, MISTAKES) else 2


def _once_and_plainly(usual: Callable[..., None]) -> Callable[..., None]:
    """`warnings.showwarning` that says what is for the user without the line of code it comes from,
    and says it once; others as usual."""
    said: set[str] = set()

    def show(message, category, *where, **more):
        if category is not UserWarning:
            usual(message, category, *where, **more)
        elif str(message) not in said:
            said.add(str(message))
            print(f"warning: {message}", file=sys.stderr)

    return show


def parse(argv: Sequence[str]) -> tuple[ml_collections.ConfigDict, str]:
    """Reads `--config` with its overrides and `--workdir`; flags of others go to `flags.FLAGS`.

    `--sweep=FILE`, where a launching module defines it, names the config as well: a sweep file has
    a get_config() for what its runs have in common.

    Returns:
      (config, workdir): the config, locked, and the workdir, by default `runs/<config file name>`.

    Raises:
      FileNotFoundError: no such config file; names those there are.
      ValueError: a flag, field or value that does not exist; names the nearest.
    """
    argv, config_argument = config_first(argv)
    defaults = fields(load(config_argument))
    for arg in argv:
        if override := re.match(r"--?(?:no)?config\.([^=\[]+)", arg):
            name = override[1].rstrip(".")
            if name not in defaults and name in RENAMED:
                raise ValueError(
                    f"--config.{name}: this field is called --config.{RENAMED[name]} now"
                )
            if name not in defaults:
                near = nearest(name, defaults, "--config.") or "; --help beside --config lists them"
                raise ValueError(f"--config.{name}: no such field{near}")

    values = _flag_values(argv)
    try:
        unused = values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        near = nearest(error.flagname, [name for name in values if "." not in name], "--")
        raise ValueError(f"--{error.flagname}: no such flag{near}") from error
    except (flags.Error, ValueError, TypeError, AttributeError, LookupError) as error:
        raise ValueError(_in_words(str(error), defaults)) from error
    if unused:
        raise ValueError(f"{unused[0]!r}: no such argument; every flag begins with --")
    flags.FLAGS.mark_as_parsed()
    file, _, variant = config_argument.partition(":")
    run = "-".join(part for part in (pathlib.Path(file).stem, variant) if part)
    return values["config"].value, os.path.expanduser(values["workdir"].value or f"runs/{run}")


def _flag_values(argv: list[str]) -> flags.FlagValues:
    """Our flags, fresh at every call, together with those defined globally."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", lock_config=True, flag_values=values, sys_argv=argv, help_string=OURS[0][1]
    )
    flags.DEFINE_string("workdir", None, OURS[2][1], flag_values=values)
    flags.DEFINE_boolean("debug", False, OURS[3][1], flag_values=values)
    values.append_flag_values(flags.FLAGS)
    return values


def _in_words(message: str, defaults: Mapping[str, Any]) -> str:
    """Says which type a field wants, where absl quotes the failure of int()."""
    match = re.match(r"flag (--config\.([^=]+)=.*?): ", message, re.DOTALL)
    if match is None or match[2] not in defaults:
        return message.removeprefix("flag ")
    default = defaults[match[2]]
    if is_node(default):
        inner = next(iter(fields(default, f"{match[2]}.")), f"{match[2]}.FIELD")
        return (
            f"{match[1]}: a section of the config; set a field of it, e.g. --config.{inner}=VALUE"
        )
    return f"{match[1]}: expected {type(default).__name__}; the config has {default!r}"
