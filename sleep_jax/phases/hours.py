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
# What is on record among the phases where the user has let days be forgotten.
FORGET = "forget"


def hour_of(label: str) -> str:
    """The hour of the day that a phase belongs to, by its label; "" for an unknown one."""
    kind = label.partition("-")[0]
    return MORNING if kind == FORGET else HOURS.get(kind, "")


def ends_day(label: str) -> bool:
    """Whether a day is over with the phase of this label."""
    kind = label.partition("-")[0]
    return kind != FORGET and HOURS.get(kind) == MORNING


def nights_over(record: Mapping[str, Any]) -> int:
    """How many days of a run are over, with their nights and mornings, from its record."""
    return sum(map(ends_day, record["phases"]))
