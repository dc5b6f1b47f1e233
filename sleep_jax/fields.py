"""Fields of files that others wrote: each is read by its type and range, or refused in one line.

    config = read_object(folder / "config.json")
    width = config.whole("hidden_size", 1, MOST_WIDTH)

An error names the file, the field, its value, and what to give instead.
"""

import json
import math
import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

REQUIRED = object()
MOST_SHOWN, MOST_REASON = 100, 200  # characters
MOST = 2**31 - 1  # of a whole number, where nothing else is said

HALVES = "\ud800-\udfff"  # of surrogate pairs, for a class of a regular expression
_SURROGATE = re.compile(rf"\\u[dD][89a-fA-F]|[{HALVES}]")
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60


def shown(value: Any) -> str:
    """A value as Python writes it, cut to `MOST_SHOWN`, however long or deep it is."""
    text = _repr.repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


def named(name: str) -> str:
    """A name as it is; escaped and cut where it is long, or would break a line."""
    return name if name.isprintable() and len(name) <= MOST_SHOWN else shown(name)[1:-1]


def reason(error: BaseException) -> str:
    """What another library says in an error, in one line and as much as is read at a glance."""
    words = " ".join(str(error)[:MOST_REASON].split())
    return words.encode("utf-8", "backslashreplace").decode() or type(error).__name__


def writable(text: str) -> str:
    """A text with U+FFFD for halves of surrogate pairs, which no encoding has: what Python makes of
    the bytes of an odd file name, for one."""
    return re.sub(f"[{HALVES}]", "\ufffd", text)


def parse_json(content: str | bytes, where: str) -> Any:
    """What a text of JSON holds.

    Raises:
      ValueError: it is not JSON, not UTF-8, nested too deep, or has half a surrogate pair, which
        could be written nowhere; `where` names it.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        value = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("unicode_escape").decode()
        raise ValueError(
            f"cannot parse {where}: it holds {half}, half of a character; write the whole one, or "
            "remove it"
        ) from error
    except (ValueError, RecursionError) as error:  # also a number of 4,300 digits
        raise ValueError(
            f"cannot parse {where}: {reason(error)}; put an undamaged copy there"
        ) from error


def read_json(path: os.PathLike[str]) -> Any:
    """`parse_json` of a file.

    Raises:
      OSError: it cannot be read.
      ValueError: as `parse_json`.
    """
    return parse_json(path.read_bytes(), str(path))


def read_object(path: os.PathLike[str]) -> "Fields":
    """The fields of a file that holds one JSON object.

    Raises:
      OSError: it cannot be read.
      ValueError: it is no JSON, or no object.
    """
    return as_object(read_json(path), str(path))


def as_object(value: Any, where: str) -> "Fields":
    """The fields of a parsed JSON object; `where` names it.

    Raises:
      ValueError: it is no object.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} holds {shown(value)}; it must be an object of named fields")
    return Fields(value, where)


def as_text(value: Any, where: str) -> str:
    """A string that can be written anywhere; `where` names it.

    Raises:
      ValueError: it is no string, or has half a surrogate pair, which no encoding knows.
    """
    if isinstance(value, str):
        try:
            value.encode("utf-8")
            return value
        except UnicodeEncodeError:
            pass
    raise ValueError(f"{where}={shown(value)}; give a string of whole characters")


class Fields(Mapping):
    """The named values of a file, each read by what it must be.

    A field that is absent takes its `default`; without one it is refused. A null counts as absent
    where the default is None, and is refused elsewhere: another reader might take it otherwise.

    Args:
      values: by name.
      where: the file, and the place in it.
      prefix: of the names in messages, for objects within objects.
    """

    def __init__(self, values: Mapping[str, Any], where: str, prefix: str = ""):
        self.where = where
        self._values = values
        self._prefix = prefix

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self):
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def whole(
        self, name: str, least: int = 0, most: int = MOST, default: Any = REQUIRED
    ) -> int | Any:
        """A whole number from `least` to `most`; 8.0 is one, true is none."""

        def read(value):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and least <= value <= most and value == int(value):
                return int(value)

        return self._read(name, read, f"a whole number from {least} to {most}", default)

    def number(self, name: str, least: float, most: float, default: Any = REQUIRED) -> float | Any:
        """A number from `least` to `most`, so neither NaN nor infinite."""

        def read(value):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and least <= value <= most and math.isfinite(value):
                return float(value)

        return self._read(name, read, f"a number from {least:g} to {most:g}", default)

    def flag(self, name: str, default: Any = REQUIRED) -> bool | Any:
        """True or false."""

        def read(value):
            return value if isinstance(value, bool) else None

        return self._read(name, read, "true or false", default)

    def text(self, name: str, default: Any = REQUIRED) -> str | Any:
        """A string, as `as_text`."""

        def read(value):
            return as_text(value, "") if isinstance(value, str) else None

        return self._read(name, read, "a string of whole characters", default)

    def texts(self, name: str, default: Any = REQUIRED) -> list[str] | Any:
        """A list of strings."""

        def read(value):
            return [as_text(x, "") for x in value] if isinstance(value, list) else None

        return self._read(name, read, "a list of strings", default)

    def listing(self, name: str, default: Any = REQUIRED) -> list | Any:
        """A list of anything."""

        def read(value):
            return value if isinstance(value, list) else None

        return self._read(name, read, "a list", default)

    def objects(self, name: str, default: Any = REQUIRED) -> list["Fields"] | Any:
        """A list of objects."""
        listed = self.listing(name, default)
        if not isinstance(listed, list):
            return listed
        for i, value in enumerate(listed):
            if not isinstance(value, Mapping):
                self._refuse(f"{name}[{i}]", value, "an object")
        return [
            Fields(x, self.where, f"{self._prefix}{named(name)}[{i}].")
            for i, x in enumerate(listed)
        ]

    def section(self, name: str, default: Any = REQUIRED) -> "Fields | Any":
        """An object within this one; a default of None gives one without fields."""

        def read(value):
            return value if isinstance(value, Mapping) else None

        values = self._read(name, read, "an object", default)
        return Fields(values or {}, self.where, f"{self._prefix}{named(name)}.")

    def refuse(self, name: str, allowed: str) -> None:
        """Raises the error of a field whose value, though of the right type, is not supported.

        Raises:
          ValueError: always.
        """
        self._refuse(name, self.get(name), allowed)

    def _read(self, name, read, allowed, default):
        value = self.get(name, REQUIRED)
        if value is REQUIRED and default is REQUIRED:
            raise ValueError(f"{self.where} has no {self._prefix}{named(name)}; give it {allowed}")
        if value is REQUIRED or (value is None and default is None):
            return default
        try:
            found = read(value)
        except (ValueError, OverflowError):
            found = None
        if found is None:
            self._refuse(name, value, allowed)
        return found

    def _refuse(self, name: str, value: Any, allowed: str) -> None:
        raise ValueError(
            f"{self.where}: {self._prefix}{named(name)}={shown(value)}; give {allowed}"
        )


def one_of(choices: Sequence[str]) -> str:
    """The words for a choice, e.g. `'silu'` or `'default' or 'llama3'`."""
    return " or ".join(map(repr, choices))
