"""The command line: `--config=FILE`, `--config.FIELD=VALUE`, `--workdir`, and errors in one line.

ml_collections reads the config and its overrides; this module checks them first, so that a misspelt
field is answered with the nearest one and not with a traceback.
"""

import contextlib
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import ml_collections
from absl import flags
from ml_collections import config_flags

from sleep_jax.cli import interrupts
from sleep_jax.cli.config_files import GivenConfig, fields, is_node, nearest
from sleep_jax.cli.errors import exit_status, warning_in_one_line
from sleep_jax.cli.help import FLAGS, HELP, help_text
from sleep_jax.cli.version import version
from sleep_jax.renamed_fields import RENAMED
from sleep_jax.setting import Setting

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
    """Runs `work(prepare(config, workdir))` with the config and workdir of the command line.

    Errors of `prepare` are the user's (a missing file, a workdir that cannot be written, a value
    out of range): ValueError, TypeError and OSError are printed in one line, or with `--debug` as a
    traceback, and end the process with exit status 2, or 1 where the error may be temporary (a
    network, a disk). Errors of `work` are ours and keep their traceback. A UserWarning is printed
    once, in one line; with `--debug` as Python does. absl flags that the launching module defines
    are parsed, and listed by `--help`, with the ones of this module.

    Args:
      prepare: checks whatever can be wrong, before any long work.
      work: the long work.
      about: first paragraph of `--help`.
      examples: command lines that `--help` shows.
      argv: the command line, by default `sys.argv`.
      settings: what the fields of the config mean and may be, by path, for `--help`.

    Returns:
      What `work` returns.
    """
    argv = list(sys.argv if argv is None else argv)
    is_debug = "--debug" in argv
    interrupts.restore_interrupt()
    with contextlib.ExitStack() as stack:
        if not is_debug:
            remark = "interrupted; run the same command to resume"
            stack.enter_context(interrupts.ending_quietly(remark))
            stack.enter_context(warning_in_one_line())
        return work(_prepared(prepare, about, examples, argv, is_debug, settings))


def _prepared(prepare, about, examples, argv: list[str], is_debug: bool, settings) -> Any:
    """What `prepare` returns; ends the process after `--help`, `--version` or an error."""
    try:
        if HELP & set(argv):
            print(help_text([arg for arg in argv if arg not in HELP], about, examples, settings))
            raise SystemExit(0)
        if "--version" in argv:
            print(version())
            raise SystemExit(0)
        return prepare(*parse(argv))
    except (ValueError, TypeError, OSError) as error:
        if isinstance(error, BrokenPipeError) and interrupts.is_reader_gone():
            raise
        if is_debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(exit_status(error)) from None


def parse(argv: Sequence[str]) -> tuple[ml_collections.ConfigDict, str]:
    """Reads `--config` with its overrides and `--workdir`; other flags go to `flags.FLAGS`.

    `--sweep=FILE`, where the launching module defines it, is a config file as well: its
    get_config() is what the runs of the sweep have in common. `--continue=RUN` has the config of
    that run, which is the workdir.

    Returns:
      (config, workdir): the config, locked, and the workdir, by default `runs/<config file name>`.

    Raises:
      FileNotFoundError: no such config file; lists the existing ones.
      ValueError: a flag, field or value that does not exist; names the nearest.
    """
    given = GivenConfig.of(argv)
    argv, config = given.argv, given.load()
    defaults = fields(config)
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

    values = _flag_values(argv, config if given.is_run else None)
    try:
        unused = values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        names = [name for name in values if "." not in name]
        near = nearest(error.flagname, names, "--") or "; --help lists them"
        raise ValueError(f"--{error.flagname}: no such flag{near}") from error
    except (flags.Error, ValueError, TypeError, AttributeError, LookupError) as error:
        raise ValueError(_plain_message(str(error), defaults)) from error
    if unused:
        raise ValueError(f"{unused[0]!r}: no such argument; every flag begins with --")
    flags.FLAGS.mark_as_parsed()
    workdir = values["workdir"].value
    if given.is_run and workdir is not None:
        raise ValueError(
            f"--workdir={workdir}: --continue goes on in the directory of its run; leave it out"
        )
    file, _, variant = given.argument.partition(":")
    run = "-".join(part for part in (pathlib.Path(file).stem, variant) if part)
    workdir = given.argument if given.is_run else os.path.expanduser(workdir or f"runs/{run}")
    return values["config"].value, workdir


def _flag_values(
    argv: list[str], config: ml_collections.ConfigDict | None = None
) -> flags.FlagValues:
    """The flags of this module, new at every call, together with the global ones; `config` is what
    the flags override, None: that of a file.
    """
    values = flags.FlagValues()
    about = {"flag_values": values, "sys_argv": argv, "help_string": FLAGS[0][1]}
    if config is None:
        config_flags.DEFINE_config_file("config", lock_config=True, **about)
    else:
        config_flags.DEFINE_config_dict("config", config, lock_config=True, **about)
    flags.DEFINE_string("workdir", None, FLAGS[2][1], flag_values=values)
    flags.DEFINE_boolean("debug", False, FLAGS[3][1], flag_values=values)
    values.append_flag_values(flags.FLAGS)
    return values


def _plain_message(message: str, defaults: Mapping[str, Any]) -> str:
    """A message of absl, with the expected type where it quotes the failure of int()."""
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
