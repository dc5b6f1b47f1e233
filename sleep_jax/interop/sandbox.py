"""Where chat templates run: they come with the weights, so they are someone else's programs.

Jinja's sandbox keeps them from what is not theirs. This one also ends those that would not end, or
would fill the memory. Loops and calls are counted; so is the text that is made, however it is made:
what operators, filters, methods, slices, lists and blocks make is spent from one budget, and what
could make much more than it is given is asked beforehand how much.
"""

import functools
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, MappingView
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

STEPS = 20_000  # turns of loops, and calls, while a chat is written; entries of a list
MOST_CHARACTERS = 10**7  # of all texts that are made while a chat is written
MOST_NUMBER = 10**5  # that may be an argument: of a width, a count, a power
MOST_BITS = 10**4  # of a whole number
ENTRY = 32  # characters that an entry of a new list counts as
GLANCE = 4  # and one that is looked at
READ = 10**4  # characters that are looked through in a step
_WIDTH = re.compile(r"\d{5,}|\*")  # in a format string
_LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_UNUSED = ("pprint", "urlize", "wordwrap", "xmlattr")  # they make much of little


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment of Jinja whose templates end.

    Each of them raises `jinja2.TemplateError` where it needs more than `STEPS`, or makes texts of
    more than `MOST_CHARACTERS` or a number that is too large.
    """

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, finalize=self._written, **kwargs)
        self._begin()
        del self.globals["lipsum"]  # much text of little
        for name in _UNUSED:
            del self.filters[name]
        for name, function in [*self.filters.items()]:
            self.add_filter(name, function)
        self.filters["counted"] = jinja2.pass_context(lambda context, items: self._counted(items))
        self.filters["read"] = jinja2.pass_context(lambda context, value: self._read(value))
        self.filters["made"] = jinja2.pass_context(lambda context, value: self._made(value))
        self.filters["joined"] = jinja2.pass_context(lambda context, parts: self._joined(parts))

    def add_filter(self, name: str, function: Callable) -> None:
        """A filter that is held to what templates may make."""
        growth, is_passed = FILTERS.get(name), hasattr(function, "jinja_pass_arg")

        @functools.wraps(function)  # which keeps what Jinja notes on it
        def checked(*args, **kwargs):
            passed, own = args[:is_passed], [*args[is_passed:]]
            if own and isinstance(own[0], Iterator):
                own[0] = self._each(own[0]) if growth is None else [*self._each(own[0])]
            self._read((own, kwargs), is_argument=True)
            if growth:
                _check_size(growth(*own, **kwargs))
            return self._made(function(*passed, *own, **kwargs))

        self.filters[name] = checked

    def write(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        """What a template of this environment writes, with all its steps before it."""
        self._begin()
        return "".join(template.generate(variables))

    def call(__self, __context, __obj, *args, **kwargs) -> Any:  # named as by Jinja
        """Calls what a template calls, which costs a step."""
        own = {k: x for k, x in kwargs.items() if k not in ("_loop_vars", "_block_vars")}
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", None)
        is_text = isinstance(owner, str | bytes)
        if is_text and name == "join" and args and isinstance(args[0], Iterator):
            args = ([*__self._each(args[0])], *args[1:])
        __self._spend()
        __self._read((args, own, owner if is_text else ""), is_argument=True)
        if is_text and name in METHODS:
            _check_size(METHODS[name](owner, *args, **own))
        return __self._made(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Any:
        """Jinja's own guard of `str.format`, with one for sizes."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text = value.__self__

        @functools.wraps(wrapped)
        def checked(*args, **kwargs):
            _check_size(_filled(text, (args, kwargs)))
            return wrapped(*args, **kwargs)

        return checked

    def call_binop(self, context, operator: str, left: Any, right: Any) -> Any:
        """Computes what cannot grow beyond measure."""
        self._read((left, right), is_argument=operator == "**")
        if operator == "**":
            if isinstance(right, int) and right > 64:
                raise jinja2.TemplateError(f"a power of {right} is not supported")
        elif operator == "%" and isinstance(left, str | bytes):
            _check_size(_formatted(left, "%", right))
        elif operator == "*":
            for items, times in ((left, right), (right, left)):
                if hasattr(items, "__len__") and isinstance(times, int):
                    _check_size(len(items) * times, items)
        elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            _check_size(len(left) + len(right), left)
        return self._made(super().call_binop(context, operator, left, right))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Whatever makes a value or a turn of a loop tells the environment."""
        return _Counting(self).visit(super()._parse(source, name, filename))

    def _begin(self) -> None:
        self._steps, self._characters = STEPS, MOST_CHARACTERS

    def _spend(self, steps: int = 1) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise jinja2.TemplateError(f"it takes more than {STEPS:,} steps")

    def _counted(self, items: Iterable) -> Iterator | Iterable:
        if hasattr(items, "__len__"):  # loops ask for the length, and may be refused beforehand
            self._spend(len(items))
            return items
        return self._each(items)

    def _each(self, items: Iterable) -> Iterator:
        for item in items:
            self._spend()
            yield item

    def _made(self, value: Any) -> Any:
        """A value that is new, which costs its own size, not that of what it holds."""
        if isinstance(value, str | bytes):
            self._spend_characters(len(value))
        elif isinstance(value, list | tuple | dict | set | frozenset):
            _check_size(len(value), value)
            self._spend_characters(ENTRY * len(value))
        elif isinstance(value, int):
            _check_number(value, is_argument=False)
        return value

    def _read(self, values: Any, is_argument: bool = False) -> Any:
        """Values that are looked through, which takes its time."""
        size, entries = _extent(values, is_argument=is_argument)
        self._spend(size // READ)
        self._spend_characters(GLANCE * entries)
        return values

    def _joined(self, parts: Iterable[Any]) -> str:
        self._read(parts)
        return self._made("".join(map(str, parts)))

    def _written(self, value: Any) -> Any:
        """A value that becomes text, in a block or at the end."""
        size, entries = _extent(value)
        self._spend_characters(size + GLANCE * entries)
        return value

    def _spend_characters(self, count: int) -> None:
        self._characters -= count
        if self._characters < 0:
            raise jinja2.TemplateError(f"it makes more than {MOST_CHARACTERS:,} characters")


class _Counting(NodeTransformer):
    """A template whose loops, texts and lists are counted by filters of its environment."""

    def __init__(self, environment: Sandbox):
        self._environment = environment

    def _filtered(self, node: nodes.Expr, name: str) -> nodes.Filter:
        where = {"lineno": node.lineno, "environment": self._environment}
        return nodes.Filter(node, name, [], [], None, None, **where)

    def _made(self, node: nodes.Expr) -> nodes.Node:
        return self._filtered(self.generic_visit(node), "made")

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise jinja2.TemplateSyntaxError("recursive loops are not supported", node.lineno)
        node = self.generic_visit(node)
        node.iter = self._filtered(node.iter, "counted")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        parts = nodes.Tuple(self.generic_visit(node).nodes, "load", lineno=node.lineno)
        return self._filtered(parts, "joined")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        node = self.generic_visit(node)
        node.expr = self._filtered(node.expr, "read")
        for operand in node.ops:
            operand.expr = self._filtered(operand.expr, "read")
        return node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return self._filtered(nodes.Const(node.data, lineno=node.lineno), "made")

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        is_slice = isinstance(node.arg, nodes.Slice)
        return self._made(node) if is_slice else self.generic_visit(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._made(node) if node.ctx == "load" else node

    visit_List = visit_Dict = _made


def _extent(value: Any, entry: int = 0, is_argument: bool = False) -> tuple[int, int]:
    """The characters of a value as text, or fewer, and the entries of lists in it.

    Args:
      value: any; a list that is held many times counts as often.
      entry: further characters of each entry, for each list that it is in.
      is_argument: its numbers are held to `MOST_NUMBER`.

    Raises:
      jinja2.TemplateError: they are too many. A list that holds itself ends here, too.
    """
    left, size, entries = [(value, 1)], 0, 0
    while left:
        x, depth = left.pop()
        x = x._Namespace__attrs if isinstance(x, Namespace) else x
        if isinstance(x, str | bytes):
            size += len(x)
        elif isinstance(x, int):
            _check_number(x, is_argument and depth <= 3)
        elif isinstance(x, Mapping | MappingView | list | tuple | set | frozenset):
            inner = [*x.keys(), *x.values()] if isinstance(x, Mapping) else x
            entries += len(inner)
            size += depth * entry * len(inner)
            _check_size(entries, ())
            left += [(y, depth + 1) for y in inner]
        _check_size(size)
    return size, entries


def _size(value: Any, entry: int = 0) -> int:
    return _extent(value, entry)[0]


def _check_number(value: int, is_argument: bool) -> None:
    if value.bit_length() > MOST_BITS:
        raise jinja2.TemplateError(f"a number of {value.bit_length():,} bits is not supported")
    if is_argument and abs(value) > MOST_NUMBER:
        shown = f"{value:.3e}" if value.bit_length() < 1000 else f"{value.bit_length():,} bits"
        raise jinja2.TemplateError(f"a number as large as {shown} is not supported")


def _check_size(size: int, kind: Any = "") -> None:
    if size > (MOST_CHARACTERS if isinstance(kind, str | bytes) else STEPS):
        raise jinja2.TemplateError(f"a text or list of {size:,} entries is not supported")


# How large what a filter or method makes of its arguments may get, which have these signatures.


def _formatted(text: str | bytes, mark: str, values: Any) -> int:
    mark = mark if isinstance(text, str) else mark.encode()
    if _WIDTH.search(text if isinstance(text, str) else text.decode("latin-1")):
        raise jinja2.TemplateError(f"the format {text[:40]!r} may be too wide")
    return len(text) + text.count(mark) * (_size(values) + MOST_NUMBER // 10)


def _filled(text: str, values: Any) -> int:
    specs = [spec or "" for _, _, spec, _ in string.Formatter().parse(text)]
    if any("{" in spec or _WIDTH.search(spec) for spec in specs):
        raise jinja2.TemplateError(f"the format {text[:40]!r} may be too wide")
    return len(text) + len(specs) * (_size(values) + MOST_NUMBER // 10)


def _replaced(text, old, new, count=None) -> int:
    text, old, new = (x if isinstance(x, bytes) else str(x) for x in (text, old, new))
    return len(text) + text.count(old) * max(0, len(new) - len(old))


def _joined_by(text, items) -> int:
    return _size(items) + len(text) * (len(items) if hasattr(items, "__len__") else STEPS)


def _joined(items, d="", attribute=None) -> int:
    return _joined_by(str(d), items)


def _indented(text, width=4, *others, **more) -> int:
    text, width = str(text), len(width) if isinstance(width, str) else width
    return len(text) + width * (1 + sum(map(text.count, _LINE_ENDS)))


def _listed(items, *others, **more) -> int:
    if isinstance(items, str):
        _check_size(len(items), [])
    return 0


def _split(text, sep=None, maxsplit=-1) -> int:
    _check_size(len(text.split(sep, STEPS + 1)), [])
    return 0


def _split_lines(text, keepends=False) -> int:
    if isinstance(text, str):
        _check_size(sum(map(text.count, _LINE_ENDS)), [])
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
    "format": lambda text, *args, **kwargs: _formatted(str(text), "%", (args, kwargs)),
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
