"""Config and sweep files: listing them, finding the one of a command line, loading it."""

import dataclasses
import inspect
import os
import pathlib
import re
import runpy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ml_collections

from sleep_jax.continuation import known_run
from sleep_jax.similar_name import similar_name

CONFIG_FLAG = r"--?(config|sweep|continue)(?:=(.*))?$"


@dataclasses.dataclass(frozen=True)
class GivenConfig:
    """Where the config of a command line comes from.

    Attributes:
      argument: of --config or --sweep, FILE or FILE:VARIANT, or of --continue, a RUN.
      is_run: it is a run, whose own config is meant.
      argv: the command line; --config=FILE is in front, because overrides must follow it.
    """

    argument: str
    is_run: bool
    argv: list[str]

    @classmethod
    def of(cls, argv: Sequence[str]) -> "GivenConfig":
        """That of a command line.

        Raises:
          ValueError: there is no --config, --sweep or --continue, or more than one of them.
        """
        rest = list(argv[1:])
        matches = [(i, m) for i, x in enumerate(rest) if (m := re.match(CONFIG_FLAG, x))]
        if len(matches) > 1:
            raise ValueError(_too_many([match for _, match in matches]))
        for index, match in matches:
            is_next_word = match[2] is None and index + 1 < len(rest)
            argument = os.path.expanduser(rest[index + 1] if is_next_word else match[2] or "")
            if match[1] == "continue":
                return cls(argument, True, [*argv])
            if match[1] == "config":
                del rest[index : index + 1 + is_next_word]
            return cls(argument, False, [argv[0], f"--config={argument}", *rest])
        known = ", ".join(map(str, configs(argv[0]))) or "a Python file with get_config()"
        raise ValueError(f"which run? Give --config=FILE, one of: {known}")

    def load(self) -> ml_collections.ConfigDict:
        """The config without overrides."""
        return known_run(self.argument).config if self.is_run else load(self.argument)


def _too_many(matches: Sequence[re.Match]) -> str:
    """What is wrong where several flags give a config."""
    if any(match[1] == "continue" for match in matches):
        other = next((m[1] for m in matches if m[1] != "continue"), "continue")
        return f"--{other}: --continue takes the run's own config; leave out --{other}"
    return f"{matches[1][0]}: one file is enough; give --config or --sweep"


def load(argument: str) -> ml_collections.ConfigDict:
    """The config of `FILE` or `FILE:VARIANT`, without overrides."""
    get_config, variant = function_of(argument, "get_config"), argument.split(":", 1)[1:]
    if variant and not inspect.signature(get_config).parameters:
        raise ValueError(f"config {argument!r} has no variants; leave out ':{variant[0]}'")
    return get_config(*variant)


def function_of(argument: str, name: str) -> Callable[..., Any]:
    """A function that the file of `FILE` or `FILE:VARIANT` defines, by its name.

    Raises:
      FileNotFoundError: no such file; names the nearest one.
      ValueError: the file does not define the function.
    """
    path = argument.partition(":")[0]
    if not pathlib.Path(path).is_file():
        near = path if configs(path) else "launch.py"
        files = {other.stem: str(other) for other in (*configs(near), *sweeps(near))}
        similar = similar_name(pathlib.Path(path).stem, files)
        listed = f"; there are: {', '.join(files.values()) or 'none'}"
        hint = f"; nearest: {files[similar]}" if similar else listed
        raise FileNotFoundError(f"config file {argument!r}: no such file{hint}")
    module = runpy.run_path(path)
    if name not in module:
        raise ValueError(f"config file {argument!r} defines no {name}()")
    return module[name]


def fields(config: ml_collections.ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Sections and fields by path: {"seeding": ConfigDict, "seeding.steps": 3, ...}."""
    by_path: dict[str, Any] = {}
    for name, value in config.items():
        by_path[f"{prefix}{name}"] = value
        if is_node(value):
            by_path |= fields(value, f"{prefix}{name}.")
    return by_path


def is_node(value: Any) -> bool:
    """Whether a value is a section of a config, not a field."""
    return isinstance(value, ml_collections.ConfigDict)


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """`; nearest: NAME`; "" if none is similar."""
    similar = similar_name(name, known)
    return f"; nearest: {prefix}{similar}" if similar else ""


def configs(near: str) -> list[pathlib.Path]:
    """The config files of a project.

    Args:
      near: path of its launch script or of one of its configs.
    """
    return _files(near, "*.py")


def sweeps(near: str) -> list[pathlib.Path]:
    """The sweep files of a project; `near` as for `configs`."""
    return _files(near, "sweeps/*.py")


def _files(near: str, pattern: str) -> list[pathlib.Path]:
    parents = pathlib.Path(near).parents[:2]
    folder = next((x for x in parents if x.name == "configs"), parents[0] / "configs")
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("_"))
