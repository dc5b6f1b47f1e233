"""The result of a night in one line."""

from collections.abc import Mapping, Sequence
from typing import Any


def headline(scores: Sequence[Mapping[str, Any]], verdict: str = "") -> str:
    """A night in one line: the verdict, closed-book shares before and after it, and the open-book
    ceiling.

    >>> headline([{"stage": "before", "questions": 0.0}, {"stage": "after", "questions": 0.5},
    ...           {"stage": "with the document in context", "questions": 0.8}], "kept")
    'Kept. Closed book: questions 0 % -> 50 %. Open book, the ceiling: questions 80 %.'

    Args:
      scores: stages, as in the summary.
      verdict: as `report.run_record.verdict`; "" without one.
    """
    named = {"questions": "questions", "paraphrases": "held-out wordings"}
    asked = [row for row in scores if row.get("questions") is not None]
    closed = [row for row in asked if "context" not in row["stage"]]
    parts = [f"{verdict[:1].upper()}{verdict[1:]}".rstrip(".")] if verdict else []
    for title, rows in (
        ("Closed book", closed[:1] + closed[-1:] if len(closed) > 1 else []),
        ("Open book, the ceiling", [row for row in asked if row not in closed]),
    ):
        shares = {
            words: [share(row[name]) for row in rows if row.get(name) is not None]
            for name, words in named.items()
        }
        texts = [f"{words} {' -> '.join(row)}" for words, row in shares.items() if row]
        parts += [f"{title}: {', '.join(texts)}"] if texts else []
    return f"{'. '.join(parts)}." if parts else "A night's sleep."


def share(value: float | None) -> str:
    """0.437 as `44 %`; "" for None."""
    return "" if value is None else f"{100 * value:.0f} %"
