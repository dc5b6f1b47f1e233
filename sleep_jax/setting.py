"""One field of a run's config: its type and range, how a value is checked and described."""

import dataclasses
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

LARGEST = {int: 2**31 - 1, float: 3.4e38}  # what 32 bits hold, where a setting has no `most`
AUTO = "auto"  # a word for the number that follows from the model
TINIEST = 2.0**-126  # float32 flushes smaller numbers to 0


@dataclasses.dataclass(frozen=True)
class Setting:
    """Type, range and meaning of a field.

    Attributes:
      default: value in a config.
      help: one line that says what it means.
      least, most: inclusive bounds; infinite ones allow inf.
      above, below: exclusive bounds.
      also: values that are allowed outside the bounds.
      words: texts that are allowed instead of a number.
      choices: the allowed texts; None: any.
      name: of the field in a config, where it differs from the attribute's.
      none: the value in a config that stands for None.
      parse: makes the attribute's value from the config's; raises ValueError where it cannot.
      path: `section.name`.
      kind: int, float, bool or str; of a tuple, the type of its entries.
      entries: length of a tuple; 0: any, but empty only where the default is; None: no tuple.
    """

    default: Any
    help: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    also: Sequence[Any] = ()
    words: Sequence[str] = ()
    choices: Sequence[str] | None = None
    name: str = ""
    none: float | None = None
    parse: Callable[[Any], Any] | None = None
    path: str = ""
    kind: type = str
    entries: int | None = None

    def read(self, value: Any) -> Any:
        """The attribute's value where a config has `value`; raises as `checked`."""
        if self.none is not None and not isinstance(value, bool) and value == self.none:
            return None
        value = self.checked(value)
        try:
            return self.parse(value) if self.parse else value
        except ValueError:
            raise ValueError(self._refusal(value)) from None

    def checked(self, value: Any) -> Any:
        """The value in the type of the field.

        Raises:
          ValueError: it is not allowed; names the field, the value and what is allowed.
        """
        is_scalar = self.entries is None
        entries = (value,) if is_scalar else value
        if not (is_scalar or self._has_its_length(value)) or not all(map(self._allows, entries)):
            raise ValueError(self._refusal(value))
        numbers_or_words = tuple(x if x in self.words else self.kind(x) for x in entries)
        return numbers_or_words[0] if is_scalar else numbers_or_words

    def _has_its_length(self, value: Any) -> bool:
        """Whether a value is a tuple of an allowed length."""
        if not isinstance(value, tuple | list):
            return False
        return len(value) == self.entries if self.entries else bool(value) or self.default == ()

    def _allows(self, x: Any) -> bool:
        """Whether a value, or an entry of a tuple, is allowed."""
        if isinstance(x, str) and x in self.words:
            return True
        if self.kind is bool:
            return isinstance(x, bool)
        if self.kind is str:
            is_known = isinstance(x, str) and (self.choices is None or x in self.choices)
            return is_known and (bool(x.strip()) or self.default == "")
        is_number = isinstance(x, numbers.Integral if self.kind is int else numbers.Real)
        if not is_number or isinstance(x, bool):
            return False
        return x in self.also or (self._is_within(x) and (x == 0 or abs(x) >= TINIEST))

    def _is_within(self, x: float) -> bool:
        if self.above is not None and not x > self.above:
            return False
        if self.below is not None and not x < self.below:
            return False
        largest = LARGEST[self.kind]
        least = -largest if self.least is None else self.least
        return least <= x <= (largest if self.most is None else self.most)

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        if self.choices is not None:
            entry = f"one of {', '.join(self.choices)}"
        elif self.kind is bool:
            entry = "True or False"
        elif self.kind is str:
            entry = "text" if self.default == "" else "text that is not empty"
        else:
            entry = self._allowed_number()
        if self.entries is None:
            return entry
        count = f" of {self.entries}" if self.entries else " of one or more" if self.default else ""
        return f"a tuple{count}, each {entry}"

    def _allowed_number(self) -> str:
        names = {"least": "at least", "above": "above", "most": "at most", "below": "below"}
        limits = {name: getattr(self, field) for field, name in names.items()}
        limits = {name: limit for name, limit in limits.items() if limit is not None}
        finite = {name: _text(limit) for name, limit in limits.items() if math.isfinite(limit)}
        words = " and ".join(f"{name} {limit}" for name, limit in finite.items())
        if list(finite) == ["at least", "at most"]:
            words = "from {} to {}".format(*finite.values())
        number = f"{'a whole number' if self.kind is int else 'a number'} {words}".rstrip()
        also = self.also if self.none is None else (self.none, *self.also)
        infinite = filter(math.isinf, limits.values())
        return ", or ".join([*self.words, *map(_text, also), number, *map(_text, infinite)])

    def _refusal(self, value: Any) -> str:
        if self.choices is not None and self.entries is None:
            return f"{self.path}={value!r}; choose from {', '.join(self.choices)} ({self.help})"
        return f"{self.path}={value!r}; give {self.allowed}{self._width(value)} ({self.help})"

    def _width(self, value: Any) -> str:
        """The remark that a number has to fit 32 bits, where only its size is wrong."""
        entries = value if isinstance(value, tuple | list) else (value,)
        sizes = [abs(x) for x in entries if isinstance(x, numbers.Real)]
        is_huge = self.most is None and any(x > LARGEST.get(self.kind, x) for x in sizes)
        is_tiny = not self.least and any(0 < x < TINIEST for x in sizes)
        return ", that 32 bits hold" if is_huge or is_tiny else ""


def _text(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"
