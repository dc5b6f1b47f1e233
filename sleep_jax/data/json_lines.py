"""JSON Lines: one object a line, and the strings in it; errors name file and line."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from sleep_jax.data.files import is_visible
from sleep_jax.fields import REQUIRED, parse_json


def objects(name: str, content: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (`file, line n`, object) for every line that is not blank.

    Raises:
      ValueError: a line is not JSON, not an object, or holds a lone surrogate.
    """
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        item = parse_json(line, where)
        if not isinstance(item, dict):
            raise ValueError(f"{where}: a {type(item).__name__}, not an object with a 'text'")
        yield where, item


def string(item: dict[str, Any], key: str, where: str, default: Any = REQUIRED) -> Any:
    """The visible string at a key; `default` where it is absent or null.

    Args:
      item: the object.
      key: of the string.
      where: file and line, for errors.
      default: `REQUIRED`: there must be one.

    Raises:
      ValueError: the value is not a string, has no visible character, or is missing.
    """
    value = item.get(key)
    if value is None and default is not REQUIRED:
        return default
    if value is None:
        raise ValueError(f"{where}: no {key!r}; every entry needs one")
    if not isinstance(value, str):
        raise ValueError(f"{where}: {key!r} is of type {type(value).__name__}, not a string")
    if not is_visible(value):
        raise ValueError(f"{where}: {key!r} is empty")
    return value


def strings(item: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """The list of visible strings at a key; empty where it is absent or null.

    Raises:
      ValueError: the value is not a list of strings, or one has no visible character.
    """
    values = item.get(key) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{where}: {key!r} must be a list of strings")
    if not all(map(is_visible, values)):
        raise ValueError(f"{where}: one of the {key!r} is empty; fill it, or remove it")
    return tuple(values)


def check_keys(item: dict[str, Any], known: Sequence[str], where: str) -> None:
    """Checks for misspelt keys, which would silently be ignored; other extra keys are allowed.

    Raises:
      ValueError: a key is close to a known one that is absent; names it.
    """
    for key in item:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if key not in known and near and near[0] not in item:
            raise ValueError(f"{where}: unknown key {key!r}; nearest: {near[0]!r}")
