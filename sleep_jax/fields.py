"""Fields of JSON files from outside: each is checked for its type and range, or refused in a line.

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
MOST = 2**31 - 1  # largest whole number, unless a call says otherwise

HALVES = "\ud800-\udfff"  # lone surrogates, as a character range of regular expressions
_SURROGATE = re.compile(rf"\\u[dD][89a-fA-F]|[{HALVES}]")
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60


def shown(value: Any) -> str:
    """`repr` of a value, cut to `MOST_SHOWN` characters, however long or deep it is."""
    text = _repr.repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


def named(name: str) -> str:
    """A name as it is; escaped and cut where it is long or not printable."""
    return name if name.isprintable() and len(name) <= MOST_SHOWN else shown(name)[1:-1]


def reason(error: BaseException) -> str:
    """Message of another library's error on one line, cut to `MOST_REASON` characters."""
    message = " ".join(str(error)[:MOST_REASON].split())
    return message.encode("utf-8", "backslashreplace").decode() or type(error).__name__


def writable(text: str) -> str:
    """A text with U+FFFD for lone surrogates, which no encoding has; Python makes them from file
    names that are not UTF-8, for example.
    """
    return re.sub(f"[{HALVES}]", "\ufffd", text)


def parse_json(content: str | bytes, where: str) -> Any:
    """The value of a JSON text.

    Args:
      content: the text.
      where: its name in errors.

    Raises:
      ValueError: it is not JSON, not UTF-8, nested too deep, or has a lone surrogate, which could
        not be written again.
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
    """The value of a JSON file.

    Raises:
      OSError: it cannot be read.
      ValueError: as `parse_json`.
    """
    return parse_json(path.read_bytes(), str(path))


def read_object(path: os.PathLike[str]) -> "Fields":
    """The fields of a file that holds one JSON object.

    Raises:
      OSError: it cannot be read.
      ValueError: it is not JSON, or not an object.
    """
    return as_object(read_json(path), str(path))


def as_object(value: Any, where: str) -> "Fields":
    """The fields of a parsed JSON object; `where` is its name in errors.

    Raises:
      ValueError: it is not an object.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} holds {shown(value)}; it must be an object of named fields")
    return Fields(value, where)


def as_text(value: Any, where: str) -> str:
    """A string that can be encoded; `where` is its name in errors.

    Raises:
      ValueError: it is not a string, or has a lone surrogate, which no encoding has.
    """
    if isinstance(value, str):
        try:
            value.encode("utf-8")
            return value
        except UnicodeEncodeError:
            pass
    raise ValueError(f"{where}={shown(value)}; give a string of whole characters")


class Fields(Mapping):
    """The named values of a file; each method checks the type and range of one.

    A field that is absent takes its `default`; without a default it is refused. A null counts as
    absent where the default is None and is refused elsewhere, since other readers may treat it
    differently.

    Args:
      values: by name.
      where: the file and the place in it, for errors.
      prefix: of names in errors, for objects within objects.
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
        """A whole number from `least` to `most`; 8.0 counts as one, true does not."""

        def read(value):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and least <= value <= most and value == int(value):
                return int(value)

        return self._read(name, read, f"a whole number from {least} to {most}", default)

    def number(self, name: str, least: float, most: float, default: Any = REQUIRED) -> float | Any:
        """A finite number from `least` to `most`."""

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
        """Refuses a value that has the right type and is not supported.

        Raises:
          ValueError: always; names file, field, value and what is allowed.
        """
        self._refuse(name, self.get(name), allowed)

    def _read(self, name, read, allowed, default):
        value = self.get(name, REQUIRED)
        if value is REQUIRED and default is REQUIRED:
            raise ValueError(f"{self.where} has no {self._prefix}{named(name)}; give it {allowed}")
        if value is REQUIRED or (value is None and default is None):
            return default
        try:
            checked = read(value)
        except (ValueError, OverflowError):
            checked = None
        if checked is None:
            self._refuse(name, value, allowed)
        return checked

    def _refuse(self, name: str, value: Any, allowed: str) -> None:
        raise ValueError(
            f"{self.where}: {self._prefix}{named(name)}={shown(value)}; give {allowed}"
        )


def one_of(choices: Sequence[str]) -> str:
    """The choices as text, e.g. `'silu'` or `'default' or 'llama3'`."""
    return " or ".join(map(repr, choices))
