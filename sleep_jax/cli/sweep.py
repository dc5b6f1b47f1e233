"""The vocabulary of a sweep file: which settings its runs change.

A sweep file is a config file with one more function, which is given this module, as in other
projects that configure with ml_collections (uncertainty-baselines, big_vision):

    def get_sweep(hyper):
        rates = hyper.sweep("config.seeding.learning_rate", [3e-3, 1e-2])
        return hyper.product([hyper.seeds(3), rates])

A field is called what the command line calls it. Every function returns a list of elements, one a
run, so whatever Python does with lists may be done with a sweep.
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
      settings: what it changes, as {"config.seeding.alpha": 1.0}.
      words: what its variant is called, part by part; seeds are runs of one variant.
    """

    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    words: tuple[str, ...] = ()

    def __post_init__(self):
        for name in self.settings:
            if not name.startswith("config."):
                raise ValueError(f"{name}: a field of a sweep is called config.{name}")

    @property
    def variant(self) -> str:
        """What a table calls it, e.g. `no imitation`."""
        return ", ".join(self.words) or "as configured"

    @property
    def seed(self) -> int | None:
        """Of the run; None where the sweep leaves it to the config."""
        return self.settings.get(SEED)

    @property
    def name(self) -> str:
        """What its folder is called, e.g. `no_imitation,seed=0`."""
        words = self.words or (self.variant,) * (self.seed is None)
        parts = [*words, *([] if self.seed is None else [f"seed={self.seed}"])]
        return ",".join(re.sub(r"[^\w.+=-]+", "_", part).strip("_") for part in parts)

    def __or__(self, other: "Element") -> "Element":
        """Both at once.

        Raises:
          ValueError: they set the same field.
        """
        if twice := self.settings.keys() & other.settings.keys():
            raise ValueError(f"{min(twice)}: set twice in one element of the sweep; leave one out")
        return Element({**self.settings, **other.settings}, self.words + other.words)


def sweep(name: str, values: Iterable[Any]) -> list[Element]:
    """One element a value of a field."""
    words = () if name == SEED else (name.removeprefix("config."),)
    return [Element({name: x}, tuple(f"{word}={_plain(x)}" for word in words)) for x in values]


def seeds(count: int) -> list[Element]:
    """The seeds 0, 1, ..., count - 1."""
    return sweep(SEED, range(count))


def variant(name: str, settings: Mapping[str, Any] | None = None) -> list[Element]:
    """One element of several settings, or of none, with a name of its own."""
    return [Element(dict(settings or {}), (name,))]


def product(sweeps: Sequence[Sequence[Element]]) -> list[Element]:
    """Every element of each with every one of the others; the last varies fastest."""
    return [_together(elements) for elements in itertools.product(*sweeps)]


def zipit(sweeps: Sequence[Sequence[Element]]) -> list[Element]:
    """The first elements together, the second ones together, and so on.

    Raises:
      ValueError: one has more elements than another.
    """
    if len({len(elements) for elements in sweeps}) > 1:
        counts = ", ".join(str(len(elements)) for elements in sweeps)
        raise ValueError(f"zipit: sweeps of {counts} elements; give each as many, or use product")
    return [_together(elements) for elements in zip(*sweeps)]


def chainit(sweeps: Iterable[Iterable[Element]]) -> list[Element]:
    """The elements of the first, then those of the second, and so on."""
    return list(itertools.chain.from_iterable(sweeps))


def _together(elements: Iterable[Element]) -> Element:
    return functools.reduce(Element.__or__, elements, Element())


def _plain(value: Any) -> str:
    """A value in a name: (1, 2) as 1-2."""
    return "-".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
