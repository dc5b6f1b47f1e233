"""The text of `--help`: usage, flags, configs and, with --config, every field of that config."""

import pathlib
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from sleep_jax.cli.config_files import (
    CONFIG_FLAG,
    GivenConfig,
    configs,
    fields,
    is_node,
    sweeps,
)
from sleep_jax.setting import Setting

WIDTH = 80  # columns
HELP = {"-h", "-help", "--help", "--helpshort", "--helpfull"}
FLAGS = (
    ("--config=FILE", "the run: a Python file with get_config()"),
    ("--config.FIELD=VALUE", "change one field of it"),
    ("--workdir=DIRECTORY", "where checkpoints, metrics and report.html go [runs/CONFIG]"),
    ("--debug", "show the traceback of an error in the command"),
    ("--version", "print the version and exit"),
)


def help_text(
    argv: Sequence[str],
    about: str,
    examples: Sequence[str] = (),
    settings: Mapping[str, Setting] | None = None,
) -> str:
    """The text of `--help`.

    Args:
      argv: the command line; where it has --config, the fields of that config are listed.
      about: first paragraph.
      examples: command lines.
      settings: what the fields mean and may be, by path.
    """
    program = pathlib.Path(argv[0]).name
    extra = [
        (f"--{flag.name}" + ("" if flag.boolean else "=VALUE"), flag.help or "")
        for flag in flags.FLAGS.get_flags_for_module(argv[0])
    ]
    presets, sweep_files = (
        [(str(path), _first_paragraph(path)) for path in paths]
        for paths in (configs(argv[0]), sweeps(argv[0]))
    )
    parts = [
        f"usage: python {program} --config=FILE [--config.FIELD=VALUE ...]\n"
        f"       {' ' * len(f'python {program}')} [--workdir=DIRECTORY]\n"
        f"       python {program} --continue=RUN [--config.data.documents=MORE]",
        textwrap.fill(" ".join(about.split()), WIDTH),
        _list("flags", [*FLAGS, *extra]),
        _list("configs", presets),
        _list("sweeps, for --sweep=FILE", sweep_files),
        _list("examples", [(example, "") for example in examples]),
    ]
    if any(re.match(CONFIG_FLAG, arg) for arg in argv):
        given = GivenConfig.of(argv)
        values = {name: x for name, x in fields(given.load()).items() if not is_node(x)}
        parts.append(f"fields of {given.argument} (* differs from the default):")
        parts.append(_describe(values, settings or {}))
    else:
        parts.append(f"python {program} --config=FILE --help lists the fields of that config.")
    return "\n\n".join(part for part in parts if part)


def _describe(values: Mapping[str, Any], settings: Mapping[str, Setting]) -> str:
    """Every field of a config as a flag, with its meaning and range; a blank line between sections,
    `*` where the value is not the default.
    """
    sections: dict[str, list[str]] = {}
    for name in sorted(values, key=[*settings, *values].index):
        lines = sections.setdefault(name.rpartition(".")[0], [])
        lines.append(_describe_field(name, values[name], settings.get(name)))
    return "\n\n".join(map("\n".join, sections.values()))


def _quoted(text: str) -> str:
    """A text quoted for a shell, in double quotes where possible: tuples have single ones."""
    quoted = shlex.quote(text)
    return quoted if quoted == text or re.search(r'["$`\\!]', text) else f'"{text}"'


def _describe_field(name: str, value: Any, setting: Setting | None) -> str:
    flag = f"--config.{name}={_quoted(value if isinstance(value, str) else repr(value))}"
    if setting is None:
        return f"  {flag}"
    is_changed = value != setting.default
    default = f"; default {setting.default!r}" if is_changed else ""
    meaning = f"{setting.help} [{setting.allowed}{default}]"
    lines = textwrap.wrap(meaning, WIDTH - 6, break_on_hyphens=False)
    return "\n".join([f"{'*' if is_changed else ' '} {flag}", *(f"      {x}" for x in lines)])


def _first_paragraph(path: pathlib.Path) -> str:
    """First paragraph of a module's docstring, on one line; "" without one."""
    match = re.match(r'\s*"""(.*?)(?:"""|\n\n)', path.read_text(encoding="utf-8"), re.DOTALL)
    return " ".join(match[1].split()) if match else ""


def _list(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """A title and two columns, the right one wrapped; "" without rows."""
    width = max((len(left) for left, _ in rows), default=0)
    blank = " " * (width + 4)
    lines = []
    for left, right in rows:
        wrapped = textwrap.wrap(
            right, max(WIDTH - len(blank), 40), break_on_hyphens=False, break_long_words=False
        ) or [""]
        lines.append(f"  {left:<{width}}  {wrapped[0]}".rstrip())
        lines += [blank + line for line in wrapped[1:]]
    return "\n".join([f"{title}:", *lines]) if rows else ""
