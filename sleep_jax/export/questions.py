"""The questions by which an export is compared with its run."""

from collections.abc import Iterator, Mapping
from typing import Any

from sleep_jax.data.documents import read_anchors, read_rehearsal_topics


def questions_of(record: Mapping[str, Any], count: int) -> list[str]:
    """Questions of a run: those that it was asked, and its own, day by day; then general ones.

    Args:
      record: of the run: `phases` and `days`.
      count: how many, at most.
    """
    distinct = dict.fromkeys(question.strip() for question in _all(record))
    return [question for question in distinct if question][:count]


def _all(record: Mapping[str, Any]) -> Iterator[str]:
    for day in record["days"]:
        yield from (asked["question"] for asked in day.get("asked", ()))
        study = day.get("study", {})
        for part in ("held_out", "learnt"):
            yield from (question["question"] for question in study.get(part, ()))
    yield from (question.question for question in read_anchors().questions)
    yield from read_rehearsal_topics()
