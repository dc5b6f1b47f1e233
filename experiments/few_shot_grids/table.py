"""The table of the README: shares of tasks and dreams, and the gain of learning to write."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

RESAMPLES = 10_000


def table(results: Sequence[dict[str, dict]]) -> str:
    """Shares by arm, a column a set of tasks, in Markdown.

    Args:
      results: of each seed what `run.experiment` returns, by set of test tasks.
    """
    columns = {}
    for name in results[0]:
        of_seeds = [result[name] for result in results]
        tasks = [x["baselines"]["tasks"] for x in of_seeds]
        arms = [x["baselines"]["arms"] for x in of_seeds]
        columns[name] = {arm: _share([x[arm] for x in arms], tasks) for arm in arms[0]}
        for when in ("before", "after"):
            if all(when in x for x in of_seeds):
                dreams = [x[when] for x in of_seeds]
                earned, total = [sum(x["earned"]) for x in dreams], [x["asked"] for x in dreams]
                is_tried = any(x["earned"] for x in dreams)
                columns[name] |= {
                    f"dreams, {when}": _share(earned, total, is_tried),
                    f"tasks that a dream solves, {when}": _share(
                        [x["hit"] for x in dreams], tasks, is_tried
                    ),
                }
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for arm in next(iter(columns.values())):
        lines.append(f"| {arm} | {' | '.join(x.get(arm, '') for x in columns.values())} |")
    return "\n".join(lines)


def gain(results: Sequence[dict[str, dict]], name: str) -> str:
    """How much larger the share of dreams that solve their task is after learning, in points, with
    a 95 % percentile bootstrap over the tasks of all seeds, the dreams of a task staying together.

    Args:
      results: as for `table`.
      name: of the set of tasks.
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
    return (
        f"{name}: {points.mean():+.1f} points of dreams [{interval.low:+.1f}, {interval.high:+.1f}]"
    )


def _share(counts: Sequence[int], totals: Sequence[int], is_tried: bool = True) -> str:
    """The share over all seeds, and behind it the count of each."""
    if not is_tried:
        return f"none tried (of {sum(totals)})"
    each = f"; {', '.join(map(str, counts))}" if len(counts) > 1 else ""
    return f"{100 * sum(counts) / sum(totals):.0f} % ({sum(counts)} of {sum(totals)}{each})"
