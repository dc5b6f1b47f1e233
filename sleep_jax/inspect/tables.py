"""Answers as tables: `show("timeline", run.timeline())`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sleep_jax.inspect.checkpoint import Leaf
from sleep_jax.inspect.memory import Change, LevelSlots
from sleep_jax.report.headline import share
from sleep_jax.report.run_record import kept_table, tasks_table, title_of
from sleep_jax.runtime.progress import clock, table
from sleep_jax.runtime.workdir import flat_config

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 36  # blocks of a drawn line
TITLES = {"paraphrases": "held-out wordings", "chance": "by chance"}  # of columns of scores
SAMPLES = 3
LINES = ("state", "diff", "restore")  # answers that are lines

Tables = Iterator[tuple[str, Sequence[str], list[Sequence[Any]]]]


def show(question: str, answer: Any) -> None:
    """Prints an answer: lines as they are, others by the function with the question's name.

    Args:
      question: `timeline`, `slots`, ...
      answer: what the function of that name in `Run` or `memory` returns.
    """
    if question in LINES:
        print("\n".join(answer or ["no difference"]))
        return
    for title, columns, rows in TABLES[question](answer):
        table(title, columns, rows, quiet=False)


def timeline(rows: Sequence[Mapping[str, Any]]) -> Tables:
    """Of `Run.timeline`."""
    levels = sorted({n for row in rows for n in row["slots"]})
    columns = ("day", "", "phase", "tokens", "time", "tokens/s", *(f"level {n}" for n in levels))
    lines, facts = [], []
    for row in rows:
        counts = [row["slots"].get(n) for n in levels]
        lines.append(
            (
                row["day"],
                row["hour"],
                row["phase"],
                row["tokens"],
                "" if row["seconds"] is None else clock(row["seconds"]),
                row["tokens_per_second"],
                *("/".join(map(str, count)) if count else "" for count in counts),
            )
        )
        facts.append((row["phase"], row["programs"], row["compiled"], row["memory"], row["detail"]))
    yield "Days and nights, and the slots in use after each phase", columns, lines
    yield "Facts of the phases", ("phase", "programs", "compiled", "GiB", "detail"), facts


def slots(levels: Sequence[LevelSlots]) -> Tables:
    """Of `memory.slots`: mean norms over the layers, and layer by layer of `down`, or `down_b`."""
    for level in levels:
        names = list(level.norms or level.wake)
        output = "down" if "down" in names else "down_b"
        shown = {f"slot {i}": {n: x[:, i] for n, x in level.norms.items()} for i in level.indices}
        shown |= {"wake": level.wake} if level.wake else {}
        rows = [
            (
                name,
                *(float(np.nanmean(norms[n])) if n in norms else "" for n in names),
                sparkline(norms[output]),
            )
            for name, norms in shown.items()
        ]
        title = f"Level {level.level}: {level.used} of {level.capacity} slots in use"
        yield title, ("", *(f"|{n}|" for n in names), f"|{output}| from the first layer up"), rows


def curves(phases: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]) -> Tables:
    """Of `Run.curves`."""
    rows = []
    for phase, named in phases.items():
        for name, points in named.items():
            values = [value for _, value in points]
            facts = (len(values), values[0], values[-1], min(values), max(values))
            rows.append((phase, name.replace("_", " "), *facts, sparkline(values)))
    yield "Divergence and reward", ("phase", "", "n", "first", "last", "min", "max", ""), rows


def scores(answer: Mapping[str, Sequence[Any]]) -> Tables:
    """Of {"headline": `Run.headline`, "stages": `Run.scores`, "recall": `Run.recall`,
    "kept": `Run.kept`, "tasks": `Run.tasks`}."""
    if rows := answer["stages"]:
        names = list(dict.fromkeys(name for row in rows for name in row))[1:]
        lines = [[title_of(row["stage"]), *(_score(row, name) for name in names)] for row in rows]
        titles = [TITLES.get(n, n.replace("_", " ")) for n in names]
        yield answer.get("headline", "Evaluation"), ["", *titles], lines
    if nights := answer["recall"]:
        columns = ["after night", *(f"day {i + 1}" for i in range(len(nights)))]
        blank = [""] * len(nights)
        lines = [[str(i + 1), *map(share, row), *blank[len(row) :]] for i, row in enumerate(nights)]
        yield "Questions about each day answered right after each night", columns, lines
    if nights := answer.get("kept"):
        yield kept_table(nights)
    if rows := answer.get("tasks"):
        yield tasks_table(rows)


def _score(row: Mapping[str, Any], name: str) -> Any:
    return (
        share(row.get(name))
        if name in ("questions", "chance", "paraphrases")
        else row.get(name, "")
    )


def samples(rows: Sequence[Mapping[str, Any]]) -> Tables:
    """Of `Run.samples`: the first few."""
    for row in rows[:SAMPLES]:
        lines = [
            ("answer", row["answer"]),
            ("before sleep", row["before"]),
            ("after sleep", row["after"]),
        ]
        yield row["question"], ("", row["document"]), lines


def changes(leaves: Sequence[Change]) -> Tables:
    """Of `memory.changes`."""
    rows = [
        (
            x.name,
            x.kind,
            "" if x.relative is None else x.relative,
            x.entries or "",
            ", ".join(map(str, x.slots)),
        )
        for x in leaves
    ]
    yield "What changed", ("leaf", "", "relative", "entries", "slots"), rows


def leaves(answer: Sequence[Leaf]) -> Tables:
    """Of `Checkpoint.leaves`."""
    rows = [(x.name, str(list(x.shape)), x.dtype) for x in answer]
    yield "Leaves", ("name", "shape", "type"), rows


def verify(problems: Mapping[str, str | None]) -> Tables:
    """Of {folder: what is wrong with it}."""
    yield "Checkpoints", ("", ""), [(name, x or "valid") for name, x in problems.items()]


def config(settings: Mapping[str, Any]) -> Tables:
    """Of `Run.config`."""
    yield "Settings", ("", ""), list(flat_config(settings).items())


def sparkline(values: Sequence[float]) -> str:
    """Values as blocks, scaled from the smallest to the largest; more than `WIDTH` values are
    averaged in groups; a blank for NaN.

    >>> sparkline([0, 1, float("nan"), 7])
    '▁▂ █'
    """
    parts = np.array_split(np.asarray(values, dtype=float), min(len(values), WIDTH) or 1)
    x = np.asarray([part[np.isfinite(part)].mean() for part in parts if np.isfinite(part).any()])
    if not len(x):
        return ""
    span = np.ptp(x) or 1.0
    heights = iter(np.rint((x - x.min()) / span * (len(BLOCKS) - 1)).astype(int))
    return "".join(BLOCKS[next(heights)] if np.isfinite(part).any() else " " for part in parts)


TABLES = {
    function.__name__: function
    for function in (timeline, slots, curves, scores, samples, changes, leaves, verify, config)
}
