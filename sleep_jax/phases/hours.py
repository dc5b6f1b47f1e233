"""The phases of a run, in their order, and the hour of the day that each belongs to: all that
tables and plots need to know of them. Nothing heavy is imported."""

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
