"""A Jinja sandbox with limits: chat templates come with the weights, so they are untrusted code.

Jinja's own sandbox restricts what a template can access. This one also stops templates that would
run forever or fill the memory. Loop iterations and calls are counted, and so are the characters
that operators, filters, methods, slices, lists and blocks produce. Operations whose result can be
much larger than their arguments are checked beforehand (`template_sizes`).
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

NEW_ENTRY = 32  # cost of an entry of a new list, in characters
READ_ENTRY = 4  # cost of an entry that is read, in characters
READ_PER_STEP = 10**4  # characters that are read in one step
_REMOVED = ("pprint", "urlize", "wordwrap", "xmlattr")  # filters whose output can be far larger


class Sandbox(ImmutableSandboxedEnvironment):
    """A Jinja environment whose templates terminate.

    A template raises `jinja2.TemplateError` where it needs more than `MAX_STEPS`, or makes texts of
    more than `MAX_CHARACTERS` or a number that is too large.
    """

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, finalize=self._written, **kwargs)
        self._begin()
        del self.globals["lipsum"]  # generates text of any length
        for name in _REMOVED:
            del self.filters[name]
        for name, function in [*self.filters.items()]:
            self.add_filter(name, function)
        self.filters["counted"] = jinja2.pass_context(lambda context, items: self._counted(items))
        self.filters["read"] = jinja2.pass_context(lambda context, value: self._read(value))
        self.filters["made"] = jinja2.pass_context(lambda context, value: self._made(value))
        self.filters["joined"] = jinja2.pass_context(lambda context, parts: self._joined(parts))

    def add_filter(self, name: str, function: Callable) -> None:
        """Adds a filter, wrapped with the limits."""
        growth, is_passed = FILTERS.get(name), hasattr(function, "jinja_pass_arg")

        @functools.wraps(function)  # keeps the attributes that Jinja sets on it
        def checked(*args, **kwargs):
            passed, given = args[:is_passed], [*args[is_passed:]]
            if given and isinstance(given[0], Iterator):
                given[0] = self._each(given[0]) if growth is None else [*self._each(given[0])]
            self._read((given, kwargs), is_argument=True)
            if growth:
                check_size(growth(*given, **kwargs))
            return self._made(function(*passed, *given, **kwargs))

        self.filters[name] = checked

    def write(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        """Renders a template of this environment, with a fresh budget of steps and characters."""
        self._begin()
        return "".join(template.generate(variables))

    def call(__self, __context, __obj, *args, **kwargs) -> Any:  # named as by Jinja
        """Calls a function for a template, at the cost of a step."""
        given = {k: x for k, x in kwargs.items() if k not in ("_loop_vars", "_block_vars")}
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", None)
        is_text = isinstance(owner, str | bytes)
        if is_text and name == "join" and args and isinstance(args[0], Iterator):
            args = ([*__self._each(args[0])], *args[1:])
        __self._spend()
        __self._read((args, given, owner if is_text else ""), is_argument=True)
        if is_text and name in METHODS:
            check_size(METHODS[name](owner, *args, **given))
        return __self._made(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Any:
        """Jinja's sandboxed `str.format`, with a limit of its size."""
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
        """Computes a binary operation after its limits are checked."""
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
        """Parses a template and inserts the counters."""
        return _Counting(self).visit(super()._parse(source, name, filename))

    def _begin(self) -> None:
        self._steps, self._characters = MAX_STEPS, MAX_CHARACTERS

    def _spend(self, steps: int = 1) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise jinja2.TemplateError(f"it takes more than {MAX_STEPS:,} steps")

    def _counted(self, items: Iterable) -> Iterator | Iterable:
        if hasattr(items, "__len__"):  # loops need the length, and too long ones fail at once
            self._spend(len(items))
            return items
        return self._each(items)

    def _each(self, items: Iterable) -> Iterator:
        for item in items:
            self._spend()
            yield item

    def _made(self, value: Any) -> Any:
        """Charges for a new value: its own size, not that of its entries."""
        if isinstance(value, str | bytes):
            self._spend_characters(len(value))
        elif isinstance(value, list | tuple | dict | set | frozenset):
            check_size(len(value), value)
            self._spend_characters(NEW_ENTRY * len(value))
        elif isinstance(value, int):
            check_number(value)
        return value

    def _read(self, values: Any, is_argument: bool = False) -> Any:
        """Charges for reading through values."""
        size, entries = extent(values, is_argument=is_argument)
        self._spend(size // READ_PER_STEP)
        self._spend_characters(READ_ENTRY * entries)
        return values

    def _joined(self, parts: Iterable[Any]) -> str:
        self._read(parts)
        return self._made("".join(map(str, parts)))

    def _written(self, value: Any) -> Any:
        """Charges for a value that becomes text, in a block or in the output."""
        size, entries = extent(value)
        self._spend_characters(size + READ_ENTRY * entries)
        return value

    def _spend_characters(self, count: int) -> None:
        self._characters -= count
        if self._characters < 0:
            raise jinja2.TemplateError(f"it makes more than {MAX_CHARACTERS:,} characters")


class _Counting(NodeTransformer):
    """Wraps the loops, strings and lists of a template in counting filters of its environment."""

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
