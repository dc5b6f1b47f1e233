"""The command line: `--config=FILE`, `--config.FIELD=VALUE`, `--workdir`, and words for mistakes.

ml_collections reads the config and its overrides; this module looks at them first, so that a
misspelt field is answered with the nearest one and not with a traceback.
"""

import contextlib
import difflib
import importlib.metadata
import inspect
import os
import pathlib
import re
import runpy
import shlex
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import ml_collections
from absl import flags
from ml_collections import config_flags

from sleep_jax.runtime import ends
from sleep_jax.setting import Setting

CONFIG_FLAG = r"--?(config|sweep)(?:=(.*))?$"
# Of what the machine says, this is for the user to mend; the rest (a network, a disk) may pass.
MISTAKES = (
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)
HELP = {"-h", "-help", "--help", "--helpshort", "--helpfull"}
OURS = (
    ("--config=FILE", "the run, as one Python file with get_config()"),
    ("--config.FIELD=VALUE", "changes one field of it"),
    ("--workdir=DIRECTORY", "where checkpoints, metrics and report.html go [runs/CONFIG]"),
    ("--debug", "shows the traceback of a mistake in the command"),
    ("--version", "prints the version, and ends"),
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
    with contextlib.ExitStack() as stack:
        if not is_debug:
            stack.enter_context(ends.quietly(remark))
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
        if isinstance(error, BrokenPipeError) and ends.is_unread():
            raise
        if is_debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(exit_status(error)) from None


def exit_status(error: Exception) -> int:
    """1 of what may pass by itself (a network, a disk), so that another start makes sense; 2 of
    what the user has to mend."""
    return 1 if isinstance(error, OSError) and not isinstance(error, MISTAKES) else 2


def version() -> str:
    """What `--version` prints."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("sleep_jax", "jax"))


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
    argv, config_argument = _config_first(argv)
    defaults = fields(load(config_argument))
    for arg in argv:
        if override := re.match(r"--?(?:no)?config\.([^=\[]+)", arg):
            name = override[1].rstrip(".")
            if name not in defaults:
                near = (
                    _nearest(name, defaults, "--config.") or "; --help beside --config lists them"
                )
                raise ValueError(f"--config.{name}: no such field{near}")

    values = _flag_values(argv)
    try:
        unused = values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        near = _nearest(error.flagname, [name for name in values if "." not in name], "--")
        raise ValueError(f"--{error.flagname}: no such flag{near}") from error
    except (flags.Error, ValueError, TypeError, AttributeError, LookupError) as error:
        raise ValueError(_in_words(str(error), defaults)) from error
    if unused:
        raise ValueError(f"{unused[0]!r}: no such argument; every flag begins with --")
    flags.FLAGS.mark_as_parsed()
    file, _, variant = config_argument.partition(":")
    run = "-".join(part for part in (pathlib.Path(file).stem, variant) if part)
    return values["config"].value, os.path.expanduser(values["workdir"].value or f"runs/{run}")


def help_text(
    argv: Sequence[str],
    about: str,
    examples: Sequence[str] = (),
    settings: Mapping[str, Setting] | None = None,
) -> str:
    """What `--help` prints: usage, flags, the configs there are; with --config also its fields, as
    `settings` describes them."""
    program = pathlib.Path(argv[0]).name
    extra = [
        (f"--{flag.name}" + ("" if flag.boolean else "=VALUE"), flag.help or "")
        for flag in flags.FLAGS.get_flags_for_module(argv[0])
    ]
    configs, sweeps = (
        [(str(path), _first_paragraph(path)) for path in found]
        for found in (_configs(argv[0]), _sweeps(argv[0]))
    )
    parts = [
        f"usage: python {program} --config=FILE [--config.FIELD=VALUE ...] [--workdir=DIRECTORY]",
        textwrap.fill(" ".join(about.split()), 96),
        _list("flags", [*OURS, *extra]),
        _list("configs", configs),
        _list("sweeps, for --sweep=FILE", sweeps),
        _list("examples", [(example, "") for example in examples]),
    ]
    if any(re.match(CONFIG_FLAG, arg) for arg in argv):
        _, argument = _config_first(argv)
        found = {name: x for name, x in fields(load(argument)).items() if not is_node(x)}
        parts.append(f"fields of {argument}; * marks what it changes:")
        parts.append(_describe(found, settings or {}))
    else:
        parts.append(f"python {program} --config=FILE --help lists the fields of that config.")
    return "\n\n".join(part for part in parts if part)


def _describe(found: Mapping[str, Any], settings: Mapping[str, Setting]) -> str:
    """Every field of a config as it would be given, with its meaning and range; a blank line
    between sections, `*` where it is not as by default."""
    sections: dict[str, list[str]] = {}
    for name in sorted(found, key=[*settings, *found].index):
        lines = sections.setdefault(name.rpartition(".")[0], [])
        lines.append(_described(name, found[name], settings.get(name)))
    return "\n\n".join(map("\n".join, sections.values()))


def _quoted(text: str) -> str:
    """For a shell; in double quotes where those do, since tuples have single ones."""
    quoted = shlex.quote(text)
    return quoted if quoted == text or re.search(r'["$`\\!]', text) else f'"{text}"'


def _described(name: str, value: Any, setting: Setting | None) -> str:
    given = f"--config.{name}={_quoted(value if isinstance(value, str) else repr(value))}"
    if setting is None:
        return f"  {given}"
    is_changed = value != setting.default
    default = f"; default {setting.default!r}" if is_changed else ""
    meaning = f"{setting.help} [{setting.allowed}{default}]"
    lines = textwrap.wrap(meaning, 74, break_on_hyphens=False)
    return "\n".join([f"{'*' if is_changed else ' '} {given}", *(f"      {x}" for x in lines)])


def _config_first(argv: Sequence[str]) -> tuple[list[str], str]:
    """`argv` with --config=FILE in front, because overrides must follow it; and the FILE."""
    rest = list(argv[1:])
    given = [(i, m) for i, x in enumerate(rest) if (m := re.match(CONFIG_FLAG, x))]
    if len(given) > 1:
        raise ValueError(f"{rest[given[1][0]]}: one file is enough; give --config or --sweep")
    for index, match in given:
        is_apart = match[2] is None and index + 1 < len(rest)
        argument = os.path.expanduser(rest[index + 1] if is_apart else match[2] or "")
        if match[1] == "config":
            del rest[index : index + 1 + is_apart]
        return [argv[0], f"--config={argument}", *rest], argument
    known = ", ".join(str(path) for path in _configs(argv[0])) or "a Python file with get_config()"
    raise ValueError(f"which run? Give --config=FILE, one of: {known}")


def load(argument: str) -> ml_collections.ConfigDict:
    """The config of `FILE` or `FILE:VARIANT` before any override."""
    get_config, variant = function_of(argument, "get_config"), argument.split(":", 1)[1:]
    if variant and not inspect.signature(get_config).parameters:
        raise ValueError(f"config {argument!r} has no variants; leave out ':{variant[0]}'")
    return get_config(*variant)


def function_of(argument: str, name: str) -> Callable[..., Any]:
    """A function that the file of `FILE` or `FILE:VARIANT` defines.

    Raises:
      FileNotFoundError: no such file; names the nearest.
      ValueError: the file defines no such function.
    """
    path = argument.partition(":")[0]
    if not pathlib.Path(path).is_file():
        near = path if _configs(path) else "launch.py"
        found = [str(other) for other in (*_configs(near), *_sweeps(near))]
        near = _nearest(path, found) or f"; there are: {', '.join(found) or 'none'}"
        raise FileNotFoundError(f"config file {argument!r}: no such file{near}")
    module = runpy.run_path(path)
    if name not in module:
        raise ValueError(f"config file {argument!r} defines no {name}()")
    return module[name]


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


def fields(config: ml_collections.ConfigDict, prefix: str = "") -> dict[str, Any]:
    """{"seeding": ConfigDict, "seeding.steps": 3, ...}: every name an override may carry."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found[f"{prefix}{name}"] = value
        if is_node(value):
            found |= fields(value, f"{prefix}{name}.")
    return found


def is_node(value: Any) -> bool:
    """A section of a config, not a setting."""
    return isinstance(value, ml_collections.ConfigDict)


def _nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """`; nearest: NAME`, judged by the whole name and then by its last part; "" if none is near."""
    known = list(known)
    by_leaf = {other.rpartition(".")[2]: other for other in known}
    leaf = name.rpartition(".")[2]
    found = difflib.get_close_matches(name, known, n=1) or [
        by_leaf[near] for near in difflib.get_close_matches(leaf, by_leaf, n=1)
    ]
    return f"; nearest: {prefix}{found[0]}" if found else ""


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


def _configs(near: str) -> list[pathlib.Path]:
    """The config files of the project whose launch script (or config) is `near`."""
    return _files(near, "*.py")


def _sweeps(near: str) -> list[pathlib.Path]:
    """Its sweep files."""
    return _files(near, "sweeps/*.py")


def _files(near: str, pattern: str) -> list[pathlib.Path]:
    parents = pathlib.Path(near).parents[:2]
    folder = next((x for x in parents if x.name == "configs"), parents[0] / "configs")
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("_"))


def _first_paragraph(path: pathlib.Path) -> str:
    """First paragraph of a module's docstring, on one line."""
    match = re.match(r'\s*"""(.*?)(?:"""|\n\n)', path.read_text(encoding="utf-8"), re.DOTALL)
    return " ".join(match[1].split()) if match else ""


def _list(title: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max((len(left) for left, _ in rows), default=0)
    blank = " " * (width + 4)
    lines = []
    for left, right in rows:
        wrapped = textwrap.wrap(
            right, max(96 - len(blank), 40), break_on_hyphens=False, break_long_words=False
        ) or [""]
        lines.append(f"  {left:<{width}}  {wrapped[0]}".rstrip())
        lines += [blank + line for line in wrapped[1:]]
    return "\n".join([f"{title}:", *lines]) if rows else ""
