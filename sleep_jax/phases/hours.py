"""The phases of a run, in their order, and the hour of the day that each belongs to: all that
tables and plots need to know of them. Nothing heavy is imported."""

from collections.abc import Mapping
from typing import Any

DAY, NIGHT, MORNING = "day", "night", "morning"
HOURS = {
    "wake": DAY,
    "study": NIGHT,
    "merge": NIGHT,
    "consolidate": NIGHT,
    "write": NIGHT,
    "select": NIGHT,
    "try": NIGHT,
    "learn": NIGHT,
    "evaluate": MORNING,
}


def nights_over(record: Mapping[str, Any]) -> int:
    """How many days of a run are over, with their nights and mornings, from its record."""
    return sum(HOURS.get(label.partition("-")[0]) == MORNING for label in record["phases"])
