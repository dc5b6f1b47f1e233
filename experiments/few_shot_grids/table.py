"""The table of the README: shares of tasks and dreams, and the gain of learning to write."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

GENERATED = "generated"  # the set of tasks whose gain is in the table
RESAMPLES = 10_000


def summary(results: Sequence[dict[str, dict]]) -> dict:
    """The figures of a table.

    Args:
      results: of each seed what `run.experiment` returns, by set of test tasks.

    Returns:
      `sets` {set: {arm: {"counts": [seeds], "of": [seeds]}}}: tasks or dreams that are solved, and
      of how many; `is_tried`: False where no dream was. `gain` {set: [mean, low, high]}: of the
      generated tasks, `gain`.
    """
    sets = {}
    for name in results[0]:
        of_seeds = [result[name] for result in results]
        tasks = [x["baselines"]["tasks"] for x in of_seeds]
        arms = [x["baselines"]["arms"] for x in of_seeds]
        sets[name] = {arm: {"counts": [x[arm] for x in arms], "of": tasks} for arm in arms[0]}
        for when in ("before", "after"):
            if all(when in x for x in of_seeds):
                dreams = [x[when] for x in of_seeds]
                is_tried = {"is_tried": any(x["earned"] for x in dreams)}
                earned, asked = [sum(x["earned"]) for x in dreams], [x["asked"] for x in dreams]
                hit = [x["hit"] for x in dreams]
                sets[name] |= {
                    f"dreams, {when}": {"counts": earned, "of": asked} | is_tried,
                    f"tasks that a dream solves, {when}": {"counts": hit, "of": tasks} | is_tried,
                }
    has_gain = all("after" in result.get(GENERATED, {}) for result in results)
    return {"sets": sets, "gain": {GENERATED: gain(results, GENERATED)} if has_gain else {}}


def table(figures: dict) -> str:
    """`summary` as Markdown: shares by arm, a column a set of tasks; below it the gain."""
    sets = figures["sets"]
    lines = [f"| | {' | '.join(sets)} |", "|---" * (len(sets) + 1) + "|"]
    for arm in next(iter(sets.values())):
        cells = [_share(**arms[arm]) if arm in arms else "" for arms in sets.values()]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    for name, interval in figures["gain"].items():
        gained = "{:+.1f} points of dreams [{:+.1f}, {:+.1f}]".format(*interval)
        lines += ["", f"After less before, {name}: {gained}, 95 % over tasks."]
    return "\n".join(lines)


def gain(results: Sequence[dict[str, dict]], name: str) -> tuple[float, float, float]:
    """How much larger the share of dreams that solve their task is after learning, in points, with
    a 95 % percentile bootstrap over the tasks of all seeds, the dreams of a task staying together.

    Args:
      results: as for `summary`.
      name: of the set of tasks.

    Returns:
      (mean, low, high).
    """
    gains = []
    for result in (result[name] for result in results):
        solved = {
            when: np.bincount(
                [dream["document"] for dream in result[when]["dreams"]],
                result[when]["earned"],
                minlength=result[when]["tasks"],
            )
            for when in ("before", "after")
        }
        dreams = result["after"]["asked"] / result["after"]["tasks"]
        gains.append((solved["after"] - solved["before"]) / dreams)
    points = 100 * np.concatenate(gains)
    interval = stats.bootstrap(
        (points,), np.mean, method="percentile", n_resamples=RESAMPLES, rng=0
    ).confidence_interval
    return float(points.mean()), float(interval.low), float(interval.high)


def _share(counts: Sequence[int], of: Sequence[int], is_tried: bool = True) -> str:
    """The share over all seeds, and behind it the count of each."""
    if not is_tried:
        return f"none tried (of {sum(of)})"
    each = f"; {', '.join(map(str, counts))}" if len(counts) > 1 else ""
    return f"{100 * sum(counts) / sum(of):.0f} % ({sum(counts)} of {sum(of)}{each})"
