"""What a night kept: own questions answered right closed book, of those that were right with the
book open on their day."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class KeptAnswers:
    """Of the own questions of one day.

    Attributes:
      right: answered right closed book, of
      open_book: those that were right with the book open on their day, of
      asked: those that were asked.
    """

    right: int
    open_book: int
    asked: int

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "KeptAnswers":
        """What `to_record` gave."""
        return cls(record["right"], record["open_book"], record["asked"])

    def to_record(self) -> dict[str, int]:
        """As JSON-able values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return f"{self.right} of {self.open_book}"


def kept_line(days: Sequence[KeptAnswers]) -> str:
    """What a night kept in one line, its own day first; days without questions are left out.

    >>> kept_line([KeptAnswers(4, 5, 6), KeptAnswers(4, 6, 6), KeptAnswers(5, 6, 7)])
    'day 3: 5 of 6 (7 asked), day 2: 4 of 6, day 1: 4 of 5'

    Args:
      days: up to that of the night.
    """
    shown = [(number, day) for number, day in enumerate(days, 1) if day.asked]
    last = len(days)
    words = [
        f"day {n}: {day}" + (f" ({day.asked} asked)" if n == last else "") for n, day in shown[::-1]
    ]
    return ", ".join(words)
