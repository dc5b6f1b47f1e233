"""Where chat templates run: they come with the weights, so they are someone else's programs.

Jinja's sandbox keeps them from what is not theirs. This one also ends those that would not end, or
would fill the memory: loops and calls are counted, texts and numbers have a largest size.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

STEPS = 20_000  # turns of loops, and calls, while a chat is written
MOST_CHARACTERS = 10**7  # of a text
MOST_NUMBER = 10**5  # that may be an argument: of a width, a count, a power
_WIDTH = re.compile(r"\d{5,}|\*")  # in a format string


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment of Jinja whose templates end.

    Each of them raises `jinja2.TemplateError` where it needs more than `STEPS`, or makes a text or
    a number that is too large.
    """

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._left = STEPS
        del self.globals["lipsum"]  # much text of little
        self.filters = {name: guarded(x) for name, x in self.filters.items()}
        self.filters["counted"] = jinja2.pass_context(lambda context, items: self._counted(items))

    def write(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        """What a template of this environment writes, with all its steps before it."""
        self._left = STEPS
        parts, size = [], 0
        for part in template.generate(variables):
            parts.append(part)
            size += len(part)
            if size > MOST_CHARACTERS:
                raise jinja2.TemplateError(f"it writes more than {MOST_CHARACTERS:,} characters")
        return "".join(parts)

    def call(__self, __context, __obj, *args, **kwargs) -> Any:  # named as by Jinja
        """Calls what a template calls, which costs a step."""
        __self._spend()
        _check_numbers((*args, *kwargs.values()))
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Any:
        """Jinja's own guard of `str.format`, with one for widths."""
        owner = getattr(value, "__self__", None)
        if isinstance(owner, str) and value.__name__ in ("format", "format_map"):
            _check_format(owner)
        return super().wrap_str_format(value)

    def call_binop(self, context, operator: str, left: Any, right: Any) -> Any:
        """Computes what cannot grow beyond measure."""
        if operator == "**":
            _check_numbers((left, right))
            if isinstance(right, int) and right > 64:
                raise jinja2.TemplateError(f"a power of {right} is not supported")
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        elif operator == "*":
            for items, times in ((left, right), (right, left)):
                if hasattr(items, "__len__") and isinstance(times, int):
                    _check_size(items, len(items) * times)
        elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            _check_size(left, len(left) + len(right))
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Every loop runs over items that are counted."""
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            if loop.recursive:
                raise jinja2.TemplateSyntaxError("recursive loops are not supported", loop.lineno)
            loop.iter = nodes.Filter(
                loop.iter, "counted", [], [], None, None, lineno=loop.lineno, environment=self
            )
        return tree

    def _counted(self, items: Iterable) -> Iterator | Iterable:
        if hasattr(items, "__len__"):  # loops ask for the length, and may be refused beforehand
            self._spend(len(items))
            return items
        return self._each(items)

    def _each(self, items: Iterable) -> Iterator:
        for item in items:
            self._spend()
            yield item

    def _spend(self, steps: int = 1) -> None:
        self._left -= steps
        if self._left < 0:
            raise jinja2.TemplateError(f"it takes more than {STEPS:,} steps")


def guarded(function: Callable) -> Callable:
    """A filter whose arguments are held to `MOST_NUMBER`, e.g. the width of `center`."""

    @functools.wraps(function)  # which keeps what Jinja notes on it
    def checked(*args, **kwargs):
        _check_numbers((*args, *kwargs.values()))
        return function(*args, **kwargs)

    return checked


def _check_numbers(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > MOST_NUMBER:
            raise jinja2.TemplateError(f"a number as large as {value:.3e} is not supported")


def _check_size(kind: Any, size: int) -> None:
    if size > (MOST_CHARACTERS if isinstance(kind, str) else STEPS):
        raise jinja2.TemplateError(f"a text or list of {size:,} entries is not supported")


def _check_format(text: str) -> None:
    if _WIDTH.search(text):
        raise jinja2.TemplateError(f"the format {text[:40]!r} may be too wide")
