"""What `--help` prints."""

import pathlib
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from sleep_jax.cli.config_files import (
    CONFIG_FLAG,
    config_first,
    configs,
    fields,
    is_node,
    load,
    sweeps,
)
from sleep_jax.setting import Setting

HELP = {"-h", "-help", "--help", "--helpshort", "--helpfull"}
OURS = (
    ("--config=FILE", "the run, as one Python file with get_config()"),
    ("--config.FIELD=VALUE", "changes one field of it"),
    ("--workdir=DIRECTORY", "where checkpoints, metrics and report.html go [runs/CONFIG]"),
    ("--debug", "shows the traceback of a mistake in the command"),
    ("--version", "prints the version, and ends"),
)


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
    runs, series = (
        [(str(path), _first_paragraph(path)) for path in found]
        for found in (configs(argv[0]), sweeps(argv[0]))
    )
    parts = [
        f"usage: python {program} --config=FILE [--config.FIELD=VALUE ...] [--workdir=DIRECTORY]",
        textwrap.fill(" ".join(about.split()), 96),
        _list("flags", [*OURS, *extra]),
        _list("configs", runs),
        _list("sweeps, for --sweep=FILE", series),
        _list("examples", [(example, "") for example in examples]),
    ]
    if any(re.match(CONFIG_FLAG, arg) for arg in argv):
        _, argument = config_first(argv)
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
