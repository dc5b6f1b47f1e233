"""The tables of the README, with paired bootstrap intervals.

python experiments/knowledge_incorporation/table.py runs/knowledge_incorporation/single
"""

import argparse
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from arm_configs import BASE, FULL
from scipy import stats

from sleep_jax.baselines.capability import TASKS, capability_cells, capability_heads
from sleep_jax.evals.metrics import contains_answer, squad_exact_match, squad_f1
from sleep_jax.fields import read_json
from sleep_jax.report.publish import publish

README = pathlib.Path(__file__).with_name("README.md")
RESULTS = README.with_name("results.json")
SCORERS = {"contains": contains_answer, "F1": squad_f1, "exact": squad_exact_match}
MAIN_SCORER = "contains"  # differences are of this one
PEERS = {BASE: "the base", FULL: "sleep"}  # that arms are compared with, and their titles
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


def file_name(arm: str) -> str:
    """How an arm begins the names of its files."""
    return arm.replace(" ", "_")


def capability_path(workdir: pathlib.Path, arm: str, seed: int) -> pathlib.Path:
    """The file with what the model of an arm can do besides; all seeds have one base."""
    name = "before" if arm == BASE else f"{file_name(arm)}-{seed}"
    return workdir / "capability" / f"{name}.json"


def read_capability(workdir: pathlib.Path, rows: Sequence[dict]) -> dict[str, list[dict]]:
    """What the models of each arm can do besides, a dict a seed that has been measured: `before`,
    and `after` but of the base."""
    found: dict[str, list[dict]] = {}
    for arm, seed in dict.fromkeys((row["arm"], row["seed"]) for row in rows):
        paths = {"before": capability_path(workdir, BASE, seed)}
        if arm != BASE:
            paths["after"] = capability_path(workdir, arm, seed)
        if all(path.exists() for path in paths.values()):
            found.setdefault(arm, []).append({k: read_json(path) for k, path in paths.items()})
    return found


def summary(rows: Sequence[dict], besides: Mapping[str, Sequence[dict]] | None = None) -> dict:
    """The figures of a table.

    Args:
      rows: of `read_rows`.
      besides: of `read_capability`; None: nothing was measured.

    Returns:
      `passages`, `questions`: how many; `arms`, by their score: `seeds`, the mean of each scorer in
      per cent, `over` {peer: [mean, low, high]}: differences in points (`difference`), and where it
      was measured `capability`, as `besides` has it.
    """
    arms: dict[str, list[dict]] = {}
    for row in rows:
        arms.setdefault(row["arm"], []).append(row)
    figures = {}
    for arm in sorted(arms, key=lambda arm: mean_score(arms[arm], MAIN_SCORER)):
        peers = [peer for peer in PEERS if peer in arms and peer != arm]
        scores = {name: 100 * mean_score(arms[arm], name) for name in SCORERS}
        over = {peer: [100 * x for x in difference(arms[arm], arms[peer])] for peer in peers}
        figures[arm] = {"seeds": len({row["seed"] for row in arms[arm]}), **scores, "over": over}
        if arm in (besides or {}):
            figures[arm]["capability"] = besides[arm]
    questions = {(row["passage"], row["question"]) for row in rows}
    passages = {row["passage"] for row in rows}
    return {"passages": len(passages), "questions": len(questions), "arms": figures}


def table(figures: dict) -> str:
    """`summary` as Markdown: an arm a line."""
    runs = {
        arm: [{"capability": x} for x in of_arm.get("capability", ())]
        for arm, of_arm in figures["arms"].items()
    }
    besides = capability_heads([x for of_arm in runs.values() for x in of_arm], [*TASKS])
    heads = ["arm", "seeds", *SCORERS, *(f"over {title}" for title in PEERS.values()), *besides]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for arm, of_arm in figures["arms"].items():
        cells = [f"{of_arm[name]:.1f}" for name in SCORERS]
        for peer in PEERS:
            over = of_arm["over"].get(peer)
            cells.append("{:+.1f} [{:+.1f}, {:+.1f}]".format(*over) if over else "")
        cells += capability_cells(runs[arm], [*TASKS]) if besides else []
        lines.append(f"| {arm} | {of_arm['seeds']} | {' | '.join(cells)} |")
    counts = f"{figures['passages']} passages, {figures['questions']} questions."
    return "\n".join([*lines, "", counts])


def report(workdir: pathlib.Path, kind: str, *, is_published: bool = False) -> str:
    """The table of a workdir; where `is_published`, it is also written into the README, and its
    figures into results.json."""
    rows = read_rows(workdir)
    figures = summary(rows, read_capability(workdir, rows))
    text = table(figures)
    if is_published:
        RESULTS.write_text(json.dumps(read_json(RESULTS) | {kind: figures}, indent=1) + "\n")
        publish(README, marks(kind), text)
    return text


def marks(kind: str) -> tuple[str, str]:
    """Between which the README has the table of `single` or `stream`."""
    return f"<!-- {kind}: written by run.py -->", f"<!-- end of {kind} -->"


def main() -> None:
    """Prints the table of a workdir."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workdir", type=pathlib.Path)
    workdir = parser.parse_args().workdir
    rows = read_rows(workdir)
    print(table(summary(rows, read_capability(workdir, rows))))


if __name__ == "__main__":
    main()
