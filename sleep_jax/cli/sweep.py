"""What a sweep file is written with: functions that list which fields each run changes.

A sweep file is a config file with one more function. It is called with this module, as in other
projects that use ml_collections (uncertainty-baselines, big_vision):

    def get_sweep(hyper):
        rates = hyper.sweep("config.seeding.learning_rate", [3e-3, 1e-2])
        return hyper.product([hyper.seeds(3), rates])

Fields have the names of the command line. Every function returns a list of elements, one for each
run, so list operations work on sweeps, too.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SEED = "config.seed"


@dataclasses.dataclass(frozen=True)
class Element:
    """One run of a sweep.

    Attributes:
      settings: the fields that it changes, as {"config.seeding.alpha": 1.0}.
      words: parts of the name of its variant; runs that differ in the seed are one variant.
    """

    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    words: tuple[str, ...] = ()

    def __post_init__(self):
        for name in self.settings:
            if not name.startswith("config."):
                raise ValueError(f"{name}: write config.{name} for a field of a sweep")

    @property
    def variant(self) -> str:
        """Name of the variant in tables, e.g. `no imitation`."""
        return ", ".join(self.words) or "as configured"

    @property
    def seed(self) -> int | None:
        """Seed of the run; None where the sweep does not set it."""
        return self.settings.get(SEED)

    @property
    def name(self) -> str:
        """Name of the run's folder, e.g. `no_imitation,seed=0`."""
        words = self.words or (self.variant,) * (self.seed is None)
        parts = [*words, *([] if self.seed is None else [f"seed={self.seed}"])]
        return ",".join(re.sub(r"[^\w.+=-]+", "_", part).strip("_") for part in parts)

    def __or__(self, other: "Element") -> "Element":
        """The changes of both.

        Raises:
          ValueError: both set the same field.
        """
        if common := self.settings.keys() & other.settings.keys():
            raise ValueError(f"{min(common)}: set twice in one element of the sweep; leave one out")
        return Element({**self.settings, **other.settings}, self.words + other.words)


def sweep(name: str, values: Iterable[Any]) -> list[Element]:
    """One element for each value of a field."""
    words = () if name == SEED else (name.removeprefix("config."),)
    return [Element({name: x}, tuple(f"{word}={_plain(x)}" for word in words)) for x in values]


def seeds(count: int) -> list[Element]:
    """The seeds 0, 1, ..., count - 1."""
    return sweep(SEED, range(count))


def variant(name: str, settings: Mapping[str, Any] | None = None) -> list[Element]:
    """One element that changes several fields, or none, with a name of its own."""
    return [Element(dict(settings or {}), (name,))]


def product(sweeps: Sequence[Sequence[Element]]) -> list[Element]:
    """Every combination of one element of each sweep; the last sweep varies fastest."""
    return [_combined(elements) for elements in itertools.product(*sweeps)]


def zipit(sweeps: Sequence[Sequence[Element]]) -> list[Element]:
    """The first elements of all sweeps combined, the second ones combined, and so on.

    Raises:
      ValueError: the sweeps have different lengths.
    """
    if len({len(elements) for elements in sweeps}) > 1:
        counts = ", ".join(str(len(elements)) for elements in sweeps)
        raise ValueError(
            f"zipit: sweeps of {counts} elements; give all the same length, or use product"
        )
    return [_combined(elements) for elements in zip(*sweeps)]


def chainit(sweeps: Iterable[Iterable[Element]]) -> list[Element]:
    """All elements of the first sweep, then all of the second, and so on."""
    return list(itertools.chain.from_iterable(sweeps))


def _combined(elements: Iterable[Element]) -> Element:
    return functools.reduce(Element.__or__, elements, Element())


def _plain(value: Any) -> str:
    """A value as part of a name: 1-2 for (1, 2)."""
    return "-".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
