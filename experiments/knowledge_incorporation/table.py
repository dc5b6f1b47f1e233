"""The tables of the README, with paired bootstrap intervals.

python experiments/knowledge_incorporation/table.py runs/knowledge_incorporation/single
"""

import argparse
import json
import pathlib
import statistics
from collections.abc import Sequence

import numpy as np
from arm_configs import FULL
from scipy import stats

from sleep_jax.evals.metrics import contains_answer, squad_exact_match, squad_f1
from sleep_jax.report.publish import publish

README = pathlib.Path(__file__).with_name("README.md")
SCORERS = {"contains": contains_answer, "F1": squad_f1, "exact": squad_exact_match}
MAIN_SCORER = "contains"  # differences are of this one
RESAMPLES = 10_000


def read_rows(workdir: pathlib.Path) -> list[dict]:
    """Every question of every arm and seed, in the order of the files' names."""
    files = sorted(workdir.glob("*.jsonl"))
    if not files:
        raise FileNotFoundError(f"{workdir}: no results; run.py writes them")
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]


def score(row: dict, scorer: str) -> float:
    """Score of one question, the mean over an arm's models."""
    return statistics.fmean(float(SCORERS[scorer](r, row["answer"])) for r in row["replies"])


def mean_score(rows: Sequence[dict], scorer: str) -> float:
    """Mean score over questions."""
    return statistics.fmean(score(row, scorer) for row in rows)


def difference(rows: Sequence[dict], peers: Sequence[dict]) -> tuple[float, float, float]:
    """Mean difference to a peer over the questions of both, and its 95 % interval:
    percentile bootstrap over passages, the questions of a passage (and its seeds) staying together.
    """
    pairs: dict[tuple, list[float]] = {}
    for side, arm_rows in enumerate((rows, peers)):
        for row in arm_rows:
            key = (row["passage"], row["seed"], row["question"])
            pairs.setdefault(key, [np.nan, np.nan])[side] = score(row, MAIN_SCORER)
    passages: dict[str, list[float]] = {}
    for (passage, *_), (ours, theirs) in pairs.items():
        if not np.isnan(ours - theirs):
            passages.setdefault(passage, []).append(ours - theirs)
    sums = np.array([sum(x) for x in passages.values()])
    counts = np.array([len(x) for x in passages.values()])

    def mean(sums, counts, axis):
        return sums.sum(axis) / counts.sum(axis)

    bootstrap = stats.bootstrap(
        (sums, counts), mean, paired=True, method="percentile", n_resamples=RESAMPLES, rng=0
    )
    low, high = bootstrap.confidence_interval
    return float(mean(sums, counts, 0)), float(low), float(high)


def table(rows: Sequence[dict]) -> str:
    """Markdown: an arm a line, per cent; differences in points from the base and from sleep."""
    arms: dict[str, list[dict]] = {}
    for row in rows:
        arms.setdefault(row["arm"], []).append(row)
    order = sorted(arms, key=lambda arm: mean_score(arms[arm], MAIN_SCORER))
    lines = [
        f"| arm | seeds | {' | '.join(SCORERS)} | over the base | over sleep |",
        "|---" * (len(SCORERS) + 4) + "|",
    ]
    for arm in order:
        seeds = len({row["seed"] for row in arms[arm]})
        cells = [f"{100 * mean_score(arms[arm], name):.1f}" for name in SCORERS]
        for peer in ("base", FULL):
            if arm == peer or peer not in arms:
                cells.append("")
                continue
            mean, low, high = (100 * x for x in difference(arms[arm], arms[peer]))
            cells.append(f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]")
        lines.append(f"| {arm} | {seeds} | {' | '.join(cells)} |")
    questions = {(row["passage"], row["question"]) for row in rows}
    passages = {row["passage"] for row in rows}
    return "\n".join([*lines, "", f"{len(passages)} passages, {len(questions)} questions."])


def report(workdir: pathlib.Path, kind: str, *, is_published: bool = False) -> str:
    """The table of a workdir; where `is_published`, it is also written into the README."""
    text = table(read_rows(workdir))
    if is_published:
        publish(README, (f"<!-- {kind}: written by run.py -->", f"<!-- end of {kind} -->"), text)
    return text


def main() -> None:
    """Prints the table of a workdir."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workdir", type=pathlib.Path)
    print(table(read_rows(parser.parse_args().workdir)))


if __name__ == "__main__":
    main()
