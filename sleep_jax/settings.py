"""Settings: what a field of a run's config may be, said at the dataclass field that holds it.

    @dataclasses.dataclass(frozen=True)
    class Gate(Settings, section="gate"):
        anchors: float = setting(0.1, "largest rise of the anchor perplexity", above=0)

Default, range and line of help stand there and nowhere else. `defaults` makes the ConfigDict that
presets and the command line change; `read` goes back, with every value held to its range. A class
may have others as parts; each says itself which section of the config its fields stand in.
"""

import dataclasses
import difflib
import functools
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import ml_collections

LARGEST = {int: 2**31 - 1, float: 3.4e38}  # of 32 bits, unless a setting says otherwise
TINIEST = 2.0**-126  # float32 makes 0 of what is closer to it

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a field may be.

    Attributes:
      default: as a config has it.
      help: what it means, in a line.
      least, most: bounds that it may reach; infinite ones allow inf.
      above, below: bounds that it may not reach.
      also: values that are allowed outside of the bounds.
      choices: the texts that are allowed; None: any.
      name: in a config, where that is not the attribute's.
      none: what stands in a config for None.
      parse: makes the attribute's value of the config's; ValueError where it cannot.
      path: `section.name`.
      kind: int, float, bool or str, of an entry where it is a tuple.
      entries: how many a tuple has; 0: any number, but none only where that is the default; None:
        it is no tuple.
    """

    default: Any
    help: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    also: Sequence[Any] = ()
    choices: Sequence[str] | None = None
    name: str = ""
    none: float | None = None
    parse: Callable[[Any], Any] | None = None
    path: str = ""
    kind: type = str
    entries: int | None = None

    def read(self, value: Any) -> Any:
        """What the attribute is where a config has `value`; raises as `checked`."""
        if self.none is not None and not isinstance(value, bool) and value == self.none:
            return None
        value = self.checked(value)
        try:
            return self.parse(value) if self.parse else value
        except ValueError:
            raise ValueError(self._refusal(value)) from None

    def checked(self, value: Any) -> Any:
        """The value in the field's own type.

        Raises:
          ValueError: it is not allowed; names field, value and what is.
        """
        is_one = self.entries is None
        entries = (value,) if is_one else value
        if not (is_one or self._is_such_a_tuple(value)) or not all(map(self._allows, entries)):
            raise ValueError(self._refusal(value))
        return self.kind(value) if is_one else tuple(map(self.kind, value))

    def _is_such_a_tuple(self, value: Any) -> bool:
        if not isinstance(value, tuple | list):
            return False
        return len(value) == self.entries if self.entries else bool(value) or self.default == ()

    def _allows(self, x: Any) -> bool:
        """Whether a value, or an entry of a tuple, is allowed."""
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
            one = f"one of {', '.join(self.choices)}"
        elif self.kind is bool:
            one = "True or False"
        elif self.kind is str:
            one = "text" if self.default == "" else "text that is not empty"
        else:
            one = self._allowed_number()
        if self.entries is None:
            return one
        count = f" of {self.entries}" if self.entries else " of one or more" if self.default else ""
        return f"a tuple{count}, each {one}"

    def _allowed_number(self) -> str:
        names = {"least": "at least", "above": "above", "most": "at most", "below": "below"}
        limits = {name: getattr(self, field) for field, name in names.items()}
        given = {name: limit for name, limit in limits.items() if limit is not None}
        finite = {name: _said(limit) for name, limit in given.items() if math.isfinite(limit)}
        words = " and ".join(f"{name} {limit}" for name, limit in finite.items())
        if list(finite) == ["at least", "at most"]:
            words = "from {} to {}".format(*finite.values())
        number = f"{'a whole number' if self.kind is int else 'a number'} {words}".rstrip()
        also = self.also if self.none is None else (self.none, *self.also)
        infinite = filter(math.isinf, given.values())
        return ", or ".join([*map(_said, also), number, *map(_said, infinite)])

    def _refusal(self, value: Any) -> str:
        if self.choices is not None and self.entries is None:
            return f"{self.path}={value!r}; choose from {', '.join(self.choices)} ({self.help})"
        return f"{self.path}={value!r}; give {self.allowed}{self._width(value)} ({self.help})"

    def _width(self, value: Any) -> str:
        """Says that a number is meant to fit 32 bits, where it is that alone which is wrong."""
        entries = value if isinstance(value, tuple | list) else (value,)
        sizes = [abs(x) for x in entries if isinstance(x, numbers.Real)]
        is_huge = self.most is None and any(x > LARGEST.get(self.kind, x) for x in sizes)
        is_tiny = not self.least and any(0 < x < TINIEST for x in sizes)
        return ", that 32 bits hold" if is_huge or is_tiny else ""


def _said(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def setting(default: Any, help: str, **allowed: Any) -> Any:
    """A dataclass field that a run's config sets.

    Args:
      default: the attribute's.
      help: a line that says what it means.
      **allowed: further fields of `Setting`; every number says its `least` or what it is `above`.
    """
    if "choices" in allowed:
        allowed["choices"] = tuple(allowed["choices"])
    declared = Setting(default, help, **allowed)
    return dataclasses.field(default=default, metadata={"setting": declared})


def part(cls: Callable[..., T], make: Callable[..., Any] | None = None) -> Any:
    """A dataclass field that is made of the settings of another class.

    Args:
      cls: that class.
      make: what makes the field's value of them; None: the class.
    """
    make = make or cls
    return dataclasses.field(default_factory=make, metadata={"part": cls, "make": make})


def columns(cls: type) -> Any:
    """A dataclass field that is a tuple of objects of a class; in Python there are none by default.

    In a config each setting of the class is a tuple with an entry for each object, or with one that
    counts for all of them.
    """
    return dataclasses.field(default=(), metadata={"columns": cls})


def borrowed(default: Any, name: str) -> Any:
    """A dataclass field that, where a config is read, is another setting of its section."""
    return dataclasses.field(default=default, metadata={"borrowed": name})


class Settings:
    """Base of the dataclasses whose fields are settings, which are held to what they may be however
    an object is made."""

    section = ""

    def __init_subclass__(cls, section: str = "", **more: Any):
        super().__init_subclass__(**more)
        cls.section = section

    def __post_init__(self):
        for name, declared in settings_of(type(self)).items():
            value = getattr(self, name)
            if not declared.parse and not (value is None and declared.none is not None):
                declared.checked(value)
        self.check()

    def check(self) -> None:
        """Raises a ValueError where fields that are each allowed cannot be together."""


@functools.cache
def settings_of(cls: type[Settings]) -> dict[str, Setting]:
    """The settings among the fields of a class, by attribute."""
    hints, found = typing.get_type_hints(cls), {}
    for field in dataclasses.fields(cls):
        if declared := field.metadata.get("setting"):
            kind, entries = _kind_of(hints[field.name])
            default = declared.default if declared.none is None else kind(declared.none)
            path = _path(cls, declared.name or field.name)
            found[field.name] = dataclasses.replace(
                declared, path=path, kind=kind, entries=entries, default=default
            )
    return found


def _path(cls: type[Settings], name: str) -> str:
    return f"{cls.section}.{name}" if cls.section else name


def _kind_of(hint: Any) -> tuple[type, int | None]:
    """`Setting.kind` and `Setting.entries` of a type; the first of a union is the config's."""
    if isinstance(hint, types.UnionType):
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is not tuple:
        return hint, None
    kind, *more = typing.get_args(hint)
    return kind, 0 if more == [Ellipsis] else 1 + len(more)


@functools.cache
def every(cls: type[Settings]) -> dict[str, Setting]:
    """All settings of a class and of its parts, by path, in the order of declaration."""
    found: dict[str, Setting] = {}
    for field in dataclasses.fields(cls):
        if field.name in settings_of(cls):
            declared = settings_of(cls)[field.name]
            found[declared.path] = declared
        elif inner := field.metadata.get("part"):
            found |= every(inner)
        elif inner := field.metadata.get("columns"):
            for declared in settings_of(inner).values():
                default = (declared.default,)
                found[declared.path] = dataclasses.replace(declared, entries=0, default=default)
    return found


def defaults(cls: type[Settings]) -> ml_collections.ConfigDict:
    """The config of a class and its parts, every setting at its default."""
    from flax.traverse_util import unflatten_dict  # not where a run is only looked at

    values = {path: declared.default for path, declared in every(cls).items()}
    return ml_collections.ConfigDict(unflatten_dict(values, sep="."))


def read(cls: type[T], config) -> T:
    """The object that a config describes.

    Args:
      cls: its class.
      config: a ConfigDict with every setting of the class and its parts.

    Raises:
      ValueError: a setting is not as it may be, is not known or is missing; names it, its value and
        what is allowed.
    """
    from flax.traverse_util import flatten_dict

    known, given = every(cls), flatten_dict(config.to_dict(), sep=".")
    if unknown := [path for path in given if path not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0)
        raise ValueError(f"{unknown[0]}={given[unknown[0]]!r}; no such field, nearest: {near[0]}")
    if missing := [path for path in known if path not in given]:
        raise ValueError(f"{missing[0]} is missing; begin a config with sleep_jax.config.default()")
    return _made(cls, cls, {path: declared.read(given[path]) for path, declared in known.items()})


def _made(cls: type, make: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """An object of the settings of `cls`, whose values are given by path."""
    fields = {}
    for field in dataclasses.fields(cls):
        how = field.metadata
        if field.name in settings_of(cls):
            fields[field.name] = values[settings_of(cls)[field.name].path]
        elif "part" in how:
            fields[field.name] = _made(how["part"], how["make"], values)
        elif "columns" in how:
            fields[field.name] = _rows(how["columns"], values)
        elif "borrowed" in how:
            fields[field.name] = values[_path(cls, how["borrowed"])]
    return make(**fields)


def _rows(cls: type[Settings], values: Mapping[str, Any]) -> tuple[Any, ...]:
    """An object for each entry of the columns of `cls`, of which the first says how many."""
    columns = {name: declared.path for name, declared in settings_of(cls).items()}
    first = next(iter(columns.values()))
    depth = len(values[first])
    for path in columns.values():
        if len(values[path]) not in (1, depth):
            raise ValueError(
                f"{path}={values[path]} has {len(values[path])} entries, {first} has {depth}; give "
                "one for each level, or one for all"
            )
    whole = {
        name: values[path] if len(values[path]) == depth else values[path] * depth
        for name, path in columns.items()
    }
    return tuple(cls(**dict(zip(whole, row))) for row in zip(*whole.values()))
