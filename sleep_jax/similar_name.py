"""The known name that a misspelt one probably stands for."""

import difflib
from collections.abc import Iterable

CUTOFF = 0.6  # least similarity of two words, as `difflib` measures it


def similar_name(name: str, known: Iterable[str]) -> str | None:
    """The known dotted name most like another one; None where the last part of none is like its.

    >>> similar_name("seeding.stpes", ["seeding.steps", "seeding.alpha"])
    'seeding.steps'
    >>> similar_name("seeding.zzzzz", ["seeding.steps", "seeding.alpha"])
    """
    last = name.rpartition(".")[2]

    def is_alike(other: str) -> bool:
        other_last = other.rpartition(".")[2]
        return last in other_last.split("_") or _ratio(last, other_last) >= CUTOFF

    return max(filter(is_alike, known), key=lambda other: _ratio(name, other), default=None)


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
