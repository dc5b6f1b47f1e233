"""Texts with classes that arrive in groups: the sets of class-incremental learning.

    clinc150       150 intents (Larson et al. 2019, arXiv 1909.02027), `data_full.json`; without
                   what is out of scope
    banking77      77 intents (Casanueva et al. 2020, arXiv 2003.04807), `train.csv`, `test.csv`,
                   columns text, category
    dbpedia        70 classes, the second level (l2) of Kaggle's "DBPedia Classes",
                   `DBPEDIA_train.csv`, `DBPEDIA_test.csv`, columns text, l1, l2, l3

A class is called by its name in words: `lost_or_stolen_card` is "lost or stolen card", `SportsTeam`
"sports team".
"""

import csv
import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sleep_jax.fields import parse_json


class Labelled(NamedTuple):
    """A text and the name of its class."""

    text: str
    label: str


@dataclasses.dataclass(frozen=True)
class ClassSet:
    """Texts to learn from and to be tested on.

    Attributes:
      train, test: in the order of their files.
    """

    train: tuple[Labelled, ...]
    test: tuple[Labelled, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """All classes, sorted."""
        return tuple(sorted({x.label for x in self.train}))

    def of(self, labels: Collection[str]) -> "ClassSet":
        """The texts of some classes."""
        return ClassSet(*(tuple(x for x in part if x.label in labels) for part in self._parts))

    def at_most(self, train: int, test: int, seed: int) -> "ClassSet":
        """At most so many texts of each class, drawn at random, in order; 0: all."""
        return ClassSet(
            *(
                _drawn(part, most, np.random.default_rng([seed, i]))
                for i, (part, most) in enumerate(zip(self._parts, (train, test)))
            )
        )

    def groups(self, size: int, seed: int) -> list[tuple[str, ...]]:
        """The classes in a random order, cut into groups of a size; the last may be smaller.

        Raises:
          ValueError: a group would be empty, or there are fewer classes than one has.
        """
        labels = self.labels
        if not 0 < size <= len(labels):
            raise ValueError(f"groups of {size} of {len(labels)} classes; give 1 to {len(labels)}")
        order = [labels[i] for i in np.random.default_rng(seed).permutation(len(labels))]
        return [tuple(order[i : i + size]) for i in range(0, len(order), size)]

    @property
    def _parts(self) -> tuple[tuple[Labelled, ...], tuple[Labelled, ...]]:
        return self.train, self.test


def _drawn(examples: Sequence[Labelled], most: int, rng: np.random.Generator):
    """At most so many of each class; what is drawn of one does not depend on other classes' order
    in the file."""
    by_label: dict[str, list[int]] = {}
    for i, x in enumerate(examples):
        by_label.setdefault(x.label, []).append(i)
    kept: list[int] = []
    for label in sorted(by_label):
        indices = by_label[label]
        kept += [indices[i] for i in rng.permutation(len(indices))[: most or None]]
    return tuple(examples[i] for i in sorted(kept))


def read_class_set(name: str, folder: str | os.PathLike[str]) -> ClassSet:
    """A set of `READERS` from the folder of its files.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: an unknown name, or a file of another form; names it.
    """
    if name not in READERS:
        raise ValueError(f"set {name!r}; choose from {', '.join(READERS)}")
    data = READERS[name](pathlib.Path(folder))
    if missing := {x.label for x in data.test} - set(data.labels):
        raise ValueError(f"{folder}: nothing to learn {min(missing)!r} from, which is tested")
    return data


def readable(name: str) -> str:
    """The name of a class in words, lower case."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " "))
    return " ".join(words.lower().rstrip("?").split())


def _clinc150(folder: pathlib.Path) -> ClassSet:
    path = _file(folder, "data_full.json")
    contents = parse_json(path.read_text(encoding="utf-8"), str(path))
    return ClassSet(*(tuple(_pairs(contents, part, path)) for part in ("train", "test")))


def _pairs(contents, part: str, path: pathlib.Path) -> Iterator[Labelled]:
    rows = contents.get(part) if isinstance(contents, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"{path}: no list {part!r} of [text, intent]; give CLINC150's own file")
    for number, row in enumerate(rows):
        is_pair = isinstance(row, list) and len(row) == 2
        if not is_pair or not all(isinstance(x, str) for x in row):
            raise ValueError(f"{path}: entry {number} of {part!r} is no pair [text, intent]")
        yield Labelled(row[0].strip(), readable(row[1]))


def _csv_reader(train: str, test: str, label: str) -> Callable[[pathlib.Path], ClassSet]:
    def read(folder: pathlib.Path) -> ClassSet:
        return ClassSet(*(tuple(_rows(_file(folder, name), label)) for name in (train, test)))

    return read


def _rows(path: pathlib.Path, label: str) -> Iterator[Labelled]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if missing := {"text", label} - set(rows.fieldnames or ()):
            raise ValueError(
                f"{path}: no column {min(missing)!r} among {', '.join(rows.fieldnames or ())}"
            )
        for row in rows:
            if not row["text"] or not row[label]:
                raise ValueError(f"{path}, line {rows.line_num}: text or {label} is empty")
            yield Labelled(row["text"].strip(), readable(row[label]))


def _file(folder: pathlib.Path, name: str) -> pathlib.Path:
    if not (folder / name).is_file():
        raise FileNotFoundError(f"{folder} has no {name}; give the folder of the published files")
    return folder / name


READERS = {
    "clinc150": _clinc150,
    "banking77": _csv_reader("train.csv", "test.csv", "category"),
    "dbpedia": _csv_reader("DBPEDIA_train.csv", "DBPEDIA_test.csv", "l2"),
}
