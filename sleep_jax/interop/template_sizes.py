"""Limits of chat templates: sizes of values, and upper bounds of results before they are made."""

import re
import string
from collections.abc import Mapping, MappingView
from typing import Any

import jinja2
from jinja2.utils import Namespace

MAX_STEPS = 20_000  # loop iterations and calls per rendered chat; entries of a list
MAX_CHARACTERS = 10**7  # of all strings made per rendered chat
MAX_NUMBER = 10**5  # as an argument: a width, a count, a power
MAX_BITS = 10**4  # of an integer
_WIDTH = re.compile(r"\d{5,}|\*")  # in a format string
_LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


def extent(value: Any, entry: int = 0, is_argument: bool = False) -> tuple[int, int]:
    """(characters, entries): a lower bound of a value's length as text, entries of all its lists.

    Args:
      value: any; a list that occurs several times counts as often.
      entry: further characters of each entry, for each list that it is in.
      is_argument: its numbers are limited to `MAX_NUMBER`.

    Raises:
      jinja2.TemplateError: they are too many. This also ends a list that contains itself.
    """
    stack, size, entries = [(value, 1)], 0, 0
    while stack:
        x, depth = stack.pop()
        x = x._Namespace__attrs if isinstance(x, Namespace) else x
        if isinstance(x, str | bytes):
            size += len(x)
        elif isinstance(x, int):
            check_number(x, is_argument and depth <= 3)
        elif isinstance(x, Mapping | MappingView | list | tuple | set | frozenset):
            inner = [*x.keys(), *x.values()] if isinstance(x, Mapping) else x
            entries += len(inner)
            size += depth * entry * len(inner)
            check_size(entries, ())
            stack += [(y, depth + 1) for y in inner]
        check_size(size)
    return size, entries


def _size(value: Any, entry: int = 0) -> int:
    return extent(value, entry)[0]


def check_number(value: int, is_argument: bool = False) -> None:
    """Raises a jinja2.TemplateError if a number has over `MAX_BITS`, or is an argument over
    `MAX_NUMBER`.
    """
    if value.bit_length() > MAX_BITS:
        raise jinja2.TemplateError(f"a number of {value.bit_length():,} bits is not supported")
    if is_argument and abs(value) > MAX_NUMBER:
        shown = f"{value:.3e}" if value.bit_length() < 1000 else f"{value.bit_length():,} bits"
        raise jinja2.TemplateError(f"a number as large as {shown} is not supported")


def check_size(size: int, kind: Any = "") -> None:
    """Raises a jinja2.TemplateError if a string has over `MAX_CHARACTERS`, or a collection over
    `MAX_STEPS` entries; `kind` is an example of its type.
    """
    if size > (MAX_CHARACTERS if isinstance(kind, str | bytes) else MAX_STEPS):
        raise jinja2.TemplateError(f"a text or list of {size:,} entries is not supported")


# Upper bounds of the size of what a filter or method returns; each has the filter's signature.


def formatted(text: str | bytes, values: Any) -> int:
    """An upper bound of the length of `text % values`."""
    mark = "%" if isinstance(text, str) else b"%"
    if _WIDTH.search(text if isinstance(text, str) else text.decode("latin-1")):
        raise jinja2.TemplateError(f"the format {text[:40]!r} may be too wide")
    return len(text) + text.count(mark) * (_size(values) + MAX_NUMBER // 10)


def filled(text: str, values: Any) -> int:
    """An upper bound of the length of `text.format(values)`."""
    specs = [spec or "" for _, _, spec, _ in string.Formatter().parse(text)]
    if any("{" in spec or _WIDTH.search(spec) for spec in specs):
        raise jinja2.TemplateError(f"the format {text[:40]!r} may be too wide")
    return len(text) + len(specs) * (_size(values) + MAX_NUMBER // 10)


def _replaced(text, old, new, count=None) -> int:
    text, old, new = (x if isinstance(x, bytes) else str(x) for x in (text, old, new))
    return len(text) + text.count(old) * max(0, len(new) - len(old))


def _joined_by(text, items) -> int:
    return _size(items) + len(text) * (len(items) if hasattr(items, "__len__") else MAX_STEPS)


def _joined(items, d="", attribute=None) -> int:
    return _joined_by(str(d), items)


def _indented(text, width=4, *others, **more) -> int:
    text, width = str(text), len(width) if isinstance(width, str) else width
    return len(text) + width * (1 + sum(map(text.count, _LINE_ENDS)))


def _listed(items, *others, **more) -> int:
    if isinstance(items, str):
        check_size(len(items), [])
    return 0


def _split(text, sep=None, maxsplit=-1) -> int:
    check_size(len(text.split(sep, MAX_STEPS + 1)), [])
    return 0


def _split_lines(text, keepends=False) -> int:
    if isinstance(text, str):
        check_size(sum(map(text.count, _LINE_ENDS)), [])
    return 0


def _without_tabs(text, tabsize=8) -> int:
    return len(text) + text.count("\t" if isinstance(text, str) else b"\t") * tabsize


def _as_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> int:
    indent = indent if isinstance(indent, int) else len(indent or "")
    return _size(value, indent + sum(map(len, separators or ())))


FILTERS = {
    "replace": _replaced,
    "join": _joined,
    "indent": _indented,
    "format": lambda text, *args, **kwargs: formatted(str(text), (args, kwargs)),
    "tojson": _as_json,
    **dict.fromkeys(("batch", "groupby", "list", "slice", "sort", "unique"), _listed),
}
METHODS = {
    "replace": _replaced,
    "join": _joined_by,
    "expandtabs": _without_tabs,
    "translate": lambda text, table, *_, **__: len(text) * max(1, _size(table)),
    **dict.fromkeys(("split", "rsplit"), _split),
    "splitlines": _split_lines,
}
