"""Settings: dataclass fields that a run's config sets, each with its default, range and help.

    @dataclasses.dataclass(frozen=True)
    class Gate(Settings, section="gate"):
        anchors: float = setting(0.1, "largest rise of the anchor perplexity", above=0)

They stand there and nowhere else. `defaults` makes the ConfigDict that presets and the command line
change; `read` makes the dataclasses of a ConfigDict and checks every value. A class may have others
as parts; each names the section of the config that its own fields are in.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import ml_collections

from sleep_jax.renamed_fields import RENAMED
from sleep_jax.setting import Setting
from sleep_jax.similar_name import similar_name

T = TypeVar("T")


def setting(default: Any, help: str, **allowed: Any) -> Any:
    """A dataclass field that a run's config sets.

    Args:
      default: value of the attribute.
      help: one line that says what it means.
      **allowed: further fields of `Setting`; every number has `least` or `above`.
    """
    if "choices" in allowed:
        allowed["choices"] = tuple(allowed["choices"])
    declared = Setting(default, help, **allowed)
    return dataclasses.field(default=default, metadata={"setting": declared})


def part(cls: Callable[..., T], make: Callable[..., Any] | None = None) -> Any:
    """A dataclass field whose value is made from the settings of another class.

    Args:
      cls: that class.
      make: makes the value from them; None: the class does.
    """
    make = make or cls
    return dataclasses.field(default_factory=make, metadata={"part": cls, "make": make})


def columns(cls: type) -> Any:
    """A dataclass field that is a tuple of objects of a class, by default empty.

    In a config each setting of the class is a tuple, with one entry for each object or a single
    entry for all of them.
    """
    return dataclasses.field(default=(), metadata={"columns": cls})


def borrowed(default: Any, name: str) -> Any:
    """A dataclass field that `read` sets to the value of another setting of its section."""
    return dataclasses.field(default=default, metadata={"borrowed": name})


class Settings:
    """Base of dataclasses with settings: values are checked however an object is made."""

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
        """Raises a ValueError where fields contradict each other."""


@functools.cache
def settings_of(cls: type[Settings]) -> dict[str, Setting]:
    """The settings among the fields of a class, by name of the attribute."""
    hints, settings = typing.get_type_hints(cls), {}
    for field in dataclasses.fields(cls):
        if declared := field.metadata.get("setting"):
            kind, entries = _kind_of(hints[field.name])
            default = declared.default if declared.none is None else kind(declared.none)
            path = _path(cls, declared.name or field.name)
            settings[field.name] = dataclasses.replace(
                declared, path=path, kind=kind, entries=entries, default=default
            )
    return settings


def _path(cls: type[Settings], name: str) -> str:
    return f"{cls.section}.{name}" if cls.section else name


def _kind_of(hint: Any) -> tuple[type, int | None]:
    """`Setting.kind` and `Setting.entries` of a type; a config has the first type of a union."""
    if isinstance(hint, types.UnionType):
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is not tuple:
        return hint, None
    kind, *more = typing.get_args(hint)
    return kind, 0 if more == [Ellipsis] else 1 + len(more)


@functools.cache
def every(cls: type[Settings]) -> dict[str, Setting]:
    """All settings of a class and of its parts, by path, in the order of declaration.

    Raises:
      TypeError: two fields with the same path are declared differently.
    """
    settings: dict[str, Setting] = {}
    for declared in _declared(cls):
        if settings.setdefault(declared.path, declared) != declared:
            raise TypeError(f"{declared.path} is declared twice, and not alike; rename one")
    return settings


def _declared(cls: type[Settings]) -> Iterator[Setting]:
    for field in dataclasses.fields(cls):
        if field.name in settings_of(cls):
            yield settings_of(cls)[field.name]
        elif inner := field.metadata.get("part"):
            yield from every(inner).values()
        elif inner := field.metadata.get("columns"):
            for declared in settings_of(inner).values():
                yield dataclasses.replace(declared, entries=0, default=(declared.default,))


def defaults(cls: type[Settings]) -> ml_collections.ConfigDict:
    """The config of a class and its parts, every setting at its default."""
    from flax.traverse_util import unflatten_dict  # slow to import, and not needed by `inspect`

    values = {path: _default(declared) for path, declared in every(cls).items()}
    return ml_collections.ConfigDict(unflatten_dict(values, sep="."))


def _default(declared: Setting) -> Any:
    """What a config has at first: a field of one type, or of any where words may stand for a
    number."""
    if not declared.words or declared.entries is not None:
        return declared.default
    return ml_collections.FieldReference(declared.default, field_type=object)


def read(cls: type[T], config) -> T:
    """The object that a config describes.

    Args:
      cls: its class.
      config: a ConfigDict with every setting of the class and its parts.

    Raises:
      ValueError: a setting is out of its range, unknown or missing; names it, its value and what
        is allowed.
    """
    from flax.traverse_util import flatten_dict

    known, given = every(cls), flatten_dict(config.to_dict(), sep=".")
    if unknown := [path for path in given if path not in known]:
        path = unknown[0]
        if path in RENAMED:
            raise ValueError(f"{path}={given[path]!r}; this field is called {RENAMED[path]} now")
        near = similar_name(path, known)
        remedy = f"nearest: {near}" if near else "--help beside --config lists them"
        raise ValueError(f"{path}={given[path]!r}; no such field, {remedy}")
    if missing := [path for path in known if path not in given]:
        raise ValueError(f"{missing[0]} is missing; begin a config with sleep_jax.config.default()")
    return _made(cls, cls, {path: declared.read(given[path]) for path, declared in known.items()})


def _made(cls: type, make: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """What `make` makes of the fields of `cls`; `values` has the settings by path."""
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
    """The objects whose settings are columns of `cls`, as many as the first column has entries."""
    columns = {name: declared.path for name, declared in settings_of(cls).items()}
    first = next(iter(columns.values()))
    depth = len(values[first])
    for path in columns.values():
        if len(values[path]) not in (1, depth):
            raise ValueError(
                f"{path}={values[path]} has {len(values[path])} entries, {first} has {depth}; give "
                "one for each level, or one for all"
            )
    filled = {
        name: values[path] if len(values[path]) == depth else values[path] * depth
        for name, path in columns.items()
    }
    return tuple(cls(**dict(zip(filled, row))) for row in zip(*filled.values()))
