"""Comparison of the runs of a sweep: final scores, means over seeds, and paired differences.

Runs of two variants are paired by seed: with the same sampling keys their first night studies the
same questions, so part of the variation between seeds is common to both and cancels in the
difference.
"""

import dataclasses
import math
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sleep_jax.fields import shown
from sleep_jax.phases.evaluate import OPEN_BOOK, STAGES
from sleep_jax.runtime.metrics import figure_of, metrics_path, read_metrics

CONFIDENCE = 0.95
BEFORE = "before the first night"
CEILING = "open book (the ceiling)"
COLUMNS = {
    "questions": "questions",
    "chance": "by chance",
    "paraphrases": "held-out wordings",
    "earlier": "questions of earlier days",
    "anchor_perplexity": "anchor texts",
    "chat_perplexity": "anchor chats",
    "divergence": "held-out divergence",
}

Figures = dict[str, float]


class ComparedRun(Protocol):
    """A run of a sweep, as `cli.sweep_runs.SweepRun` is.

    Attributes:
      element: its name, variant and seed.
      workdir: where it was written.
      is_finished: it has its report.
    """

    element: Any
    workdir: str
    is_finished: bool


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Scores of the finished runs of a sweep.

    Attributes:
      variants: {variant: {seed: final scores}}, in the order of the sweep.
      before: scores of the first run before its first night.
      missing: names of the unfinished runs.
      rolled_back: {name of the run: number of nights that the gate rejected}, without zeros.
      ceiling: scores of the first run with the day's documents in context.
    """

    variants: dict[str, dict[int | None, Figures]]
    before: Figures
    missing: tuple[str, ...] = ()
    rolled_back: dict[str, int] = dataclasses.field(default_factory=dict)
    ceiling: Figures = dataclasses.field(default_factory=dict)

    @property
    def columns(self) -> dict[str, str]:
        """Titles of the columns that some run has values for."""
        named = {name for runs in self.variants.values() for run in runs.values() for name in run}
        return {name: title for name, title in COLUMNS.items() if name in named}


def compare(runs: Sequence[ComparedRun]) -> Comparison:
    """Reads the scores of the runs of a sweep.

    Raises:
      ValueError: no run is finished.
    """
    finished = [run for run in runs if run.is_finished]
    if not finished:
        raise ValueError(f"{runs[0].workdir}: no report; no run of this sweep is finished")
    variants: dict[str, dict[int | None, Figures]] = {}
    for run in finished:
        variants.setdefault(run.element.variant, {})[run.element.seed] = at_the_end(run.workdir)
    missing = tuple(run.element.name for run in runs if not run.is_finished)
    rejected = {
        run.element.name: sum(not line.get("accepted", True) for line in nights(run.workdir))
        for run in finished
    }
    rolled_back = {name: count for name, count in rejected.items() if count}
    before, ceiling = at_the_start(finished[0].workdir), open_book(finished[0].workdir)
    return Comparison(variants, before, missing, rolled_back, ceiling)


def scores(workdir: str | os.PathLike[str], night: int = -1) -> dict[str, Figures]:
    """Scores of a finished run at each stage of a night, by default the last: {stage: scores}.

    Raises:
      ValueError: its evaluation is not complete.
    """
    by_night: dict[str, dict[str, Figures]] = {}
    for line in _evaluations(workdir):
        if line["step"] < len(STAGES):
            figures = {name.removeprefix(OPEN_BOOK): x for name, x in line.items()}
            by_night.setdefault(line["phase"], {})[STAGES[line["step"]]] = figures
    if not by_night or STAGES[-1] not in (stages := list(by_night.values())[night]):
        raise ValueError(f"{workdir} has no scores {STAGES[-1]}; finish the run first")
    return stages


def at_the_start(workdir: str | os.PathLike[str]) -> Figures:
    """Scores of a run before its first night; questions are those of its first day."""
    first = _stage(workdir, scores(workdir, night=0), STAGES[:1])
    figures = {name: _figure(workdir, first, name) for name in COLUMNS if name in first}
    if lines := nights(workdir):
        figures["divergence"] = _figure(workdir, lines[0], "held_out_kl_before")
    return figures


def open_book(workdir: str | os.PathLike[str]) -> Figures:
    """Shares right with the day's documents in context, means over the days of a run."""
    days = [
        {name.removeprefix(OPEN_BOOK): x for name, x in line.items()}
        for line in _evaluations(workdir)
        if line["step"] == STAGES.index(STAGES[-1])
    ]
    return {
        name: statistics.mean(day[name] for day in days)
        for name in ("questions", "paraphrases")
        if days and all(name in day for day in days)
    }


def at_the_end(workdir: str | os.PathLike[str]) -> Figures:
    """Scores of a run after its last night.

    Shares are means over its days; the divergence (nats a token, on held-out sequences, after each
    night) is a mean over its nights.
    """
    final = _stage(workdir, scores(workdir), STAGES[-2::-1])
    figures = {
        name: _figure(workdir, final, name) for name in ("anchor_perplexity", "chat_perplexity")
    }
    lines = [line for line in _evaluations(workdir) if line["step"] == len(STAGES)]
    if not lines:
        raise ValueError(f"{workdir} has no scores of its days; finish the run first")
    for name in ("questions", "paraphrases"):
        named = [key for key in lines[-1] if re.fullmatch(rf"day_\d+_{name}", key)]
        days = [_figure(workdir, lines[-1], key) for key in named]
        if days:
            figures[name] = statistics.mean(days)
        if name == "questions" and len(days) > 1:
            figures["earlier"] = statistics.mean(days[:-1])
    if consolidations := nights(workdir):
        after = (_figure(workdir, line, "held_out_kl_after") for line in consolidations)
        figures["divergence"] = statistics.mean(after)
    return figures


def _stage(
    workdir: str | os.PathLike[str], measured: Mapping[str, Figures], stages: Sequence[str]
) -> Figures:
    """Scores of the first of these stages that was measured."""
    for stage in stages:
        if stage in measured:
            return measured[stage]
    raise ValueError(f"{metrics_path(workdir)} has no scores {stages[0]}; finish the run first")


def _figure(workdir: str | os.PathLike[str], line: Mapping[str, Any], name: str) -> float:
    """A number that a line must have."""
    if (value := figure_of(line, name)) is None:
        raise ValueError(
            f"{metrics_path(workdir)}: {line['phase']}, step {line['step']} has "
            f"{name}={shown(line.get(name))}, which is no number; run this phase again"
        )
    return value


def _evaluations(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    return [line for line in read_metrics(workdir) if line["phase"].startswith("evaluate")]


def nights(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The line of each consolidation of a run with its measurements before and after, in order."""
    measured = (line for line in read_metrics(workdir) if "held_out_kl_after" in line)
    return [line for line in measured if line["phase"].startswith("consolidate")]


def cell(name: str, values: Sequence[float], has_spread: bool = False) -> str:
    """The mean and, where values differ, every value in brackets; `has_spread` adds their standard
    deviation; "" without values.
    """
    if not values:
        return ""
    unit, factor, digits = unit_of(name)
    texts = [f"{factor * value:.{digits}f}" for value in values]
    mean = f"{factor * statistics.mean(values):.{digits}f}{unit}"
    if len(set(texts)) == 1:
        return mean
    spread = f" ± {factor * statistics.stdev(values):.{digits}f}" if has_spread else ""
    return f"{mean}{spread} ({', '.join(texts)})"


def table(comparison: Comparison) -> str:
    """Markdown table: mean ± standard deviation over seeds of every variant, and each seed."""
    columns = comparison.columns
    before = [
        cell(name, [comparison.before[name]]) if name in comparison.before else ""
        for name in columns
    ]
    rows = [[BEFORE, "", *before]]
    for variant, runs in comparison.variants.items():
        cells = [cell(name, values_of(runs, name), True) for name in columns]
        rows.append([variant, str(len(runs)), *cells])
    if comparison.ceiling:
        cells = [
            cell(n, [comparison.ceiling[n]]) if n in comparison.ceiling else "" for n in columns
        ]
        rows.append([CEILING, "", *cells])
    return _markdown(["variant", "runs", *columns.values()], rows)


def differences(comparison: Comparison) -> str:
    """Markdown table: every variant minus the first one, over their common seeds."""
    (first, first_runs), *others = comparison.variants.items()
    columns = comparison.columns
    rows = []
    for variant, runs in others:
        both = sum(seed in first_runs for seed in runs)
        cells = [difference(name, paired(runs, first_runs, name)) for name in columns]
        rows.append([variant, str(both), *cells])
    return _markdown([f"minus {first}", "pairs", *columns.values()], rows)


def paired(runs: Mapping[Any, Figures], others: Mapping[Any, Figures], name: str) -> list[float]:
    """Runs minus others in one column, over the seeds of which both have a value."""
    both = [(runs[seed], others[seed]) for seed in runs if seed in others]
    return [a[name] - b[name] for a, b in both if name in a and name in b]


def difference(name: str, pairs: Sequence[float]) -> str:
    """The mean of paired differences with its interval, `-8 [-30, 13]`; shares in points."""
    if not pairs:
        return ""
    _, factor, digits = unit_of(name)
    mean, (low, high) = statistics.mean(pairs), interval(pairs)
    if math.isnan(low):
        return f"{factor * mean:+.{digits}f}"
    return f"{factor * mean:+.{digits}f} [{factor * low:.{digits}f}, {factor * high:.{digits}f}]"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's t interval of a mean at `CONFIDENCE`; NaN for a single value.

    It assumes a normal distribution over seeds, which three seeds cannot show; with three it
    reaches 2.5 standard deviations to either side.
    """
    import scipy.stats  # takes half a second to import

    if len(values) < 2:
        return math.nan, math.nan
    half = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    half *= statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.mean(values)
    return mean - half, mean + half


def report(comparison: Comparison) -> str:
    """Markdown: both tables with their notes."""
    parts = [table(comparison)]
    if comparison.rolled_back:
        runs = (f"{name} ({count})" for name, count in comparison.rolled_back.items())
        parts.insert(0, f"Nights that the gate rolled back: {', '.join(runs)}.")
    if len(comparison.variants) > 1:
        parts += [
            f"Paired differences, with {100 * CONFIDENCE:.0f} % t intervals (shares in points):",
            differences(comparison),
        ]
    if comparison.missing:
        parts.append(f"Not finished: {', '.join(comparison.missing)}.")
    return "\n\n".join(parts)


def unit_of(name: str) -> tuple[str, float, int]:
    """(unit, factor, digits) with which the values of a column are shown."""
    is_share = name in ("questions", "chance", "paraphrases", "earlier")
    return (" %", 100.0, 0) if is_share else ("", 1.0, 2)


def values_of(runs: Mapping[Any, Figures], name: str) -> list[float]:
    """The values of one column, of every run that has it."""
    return [run[name] for run in runs.values() if name in run]


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
