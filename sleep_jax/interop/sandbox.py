"""Where chat templates run: they come with the weights, so they are someone else's programs.

Jinja's sandbox keeps them from what is not theirs. This one also ends those that would not end, or
would fill the memory. Loops and calls are counted; so is the text that is made, however it is made:
what operators, filters, methods, slices, lists and blocks make is spent from one budget, and what
could make much more than it is given is asked beforehand how much.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from sleep_jax.interop.template_sizes import (
    FILTERS,
    MAX_CHARACTERS,
    MAX_STEPS,
    METHODS,
    check_number,
    check_size,
    extent,
    filled,
    formatted,
)

ENTRY = 32  # characters that an entry of a new list counts as
GLANCE = 4  # and one that is looked at
READ = 10**4  # characters that are looked through in a step
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
                check_size(growth(*own, **kwargs))
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
            check_size(METHODS[name](owner, *args, **own))
        return __self._made(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Any:
        """Jinja's own guard of `str.format`, with one for sizes."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text = value.__self__

        @functools.wraps(wrapped)
        def checked(*args, **kwargs):
            check_size(filled(text, (args, kwargs)))
            return wrapped(*args, **kwargs)

        return checked

    def call_binop(self, context, operator: str, left: Any, right: Any) -> Any:
        """Computes what cannot grow beyond measure."""
        self._read((left, right), is_argument=operator == "**")
        if operator == "**":
            if isinstance(right, int) and right > 64:
                raise jinja2.TemplateError(f"a power of {right} is not supported")
        elif operator == "%" and isinstance(left, str | bytes):
            check_size(formatted(left, right))
        elif operator == "*":
            for items, times in ((left, right), (right, left)):
                if hasattr(items, "__len__") and isinstance(times, int):
                    check_size(len(items) * times, items)
        elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            check_size(len(left) + len(right), left)
        return self._made(super().call_binop(context, operator, left, right))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Whatever makes a value or a turn of a loop tells the environment."""
        return _Counting(self).visit(super()._parse(source, name, filename))

    def _begin(self) -> None:
        self._steps, self._characters = MAX_STEPS, MAX_CHARACTERS

    def _spend(self, steps: int = 1) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise jinja2.TemplateError(f"it takes more than {MAX_STEPS:,} steps")

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
            check_size(len(value), value)
            self._spend_characters(ENTRY * len(value))
        elif isinstance(value, int):
            check_number(value)
        return value

    def _read(self, values: Any, is_argument: bool = False) -> Any:
        """Values that are looked through, which takes its time."""
        size, entries = extent(values, is_argument=is_argument)
        self._spend(size // READ)
        self._spend_characters(GLANCE * entries)
        return values

    def _joined(self, parts: Iterable[Any]) -> str:
        self._read(parts)
        return self._made("".join(map(str, parts)))

    def _written(self, value: Any) -> Any:
        """A value that becomes text, in a block or at the end."""
        size, entries = extent(value)
        self._spend_characters(size + GLANCE * entries)
        return value

    def _spend_characters(self, count: int) -> None:
        self._characters -= count
        if self._characters < 0:
            raise jinja2.TemplateError(f"it makes more than {MAX_CHARACTERS:,} characters")


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
