"""What was kept, night after night, and the tables of the README."""

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from sleep_jax.baselines.capability import capability_cells, capability_heads
from sleep_jax.phases.evaluate import STAGES
from sleep_jax.report.publish import publish

README = pathlib.Path(__file__).with_name("README.md")
RESULTS = README.with_name("results.json")
MARKS = ("<!-- table: written by run.py -->", "<!-- end of table -->")
KINDS = {"questions": "questions", "paraphrases": "held-out wordings"}


def of_sleep(record: dict, seed: int) -> dict:
    """The figures of a run from its record.

    Returns:
      `recall` [nights][days so far]: {"questions": share right, "paraphrases": share right};
      `anchors` [nights]: perplexity of the anchor texts; `before`: that before the first night;
      `open_book` [days]: shares right with the day's documents in context; `tokens` and `seconds`
      [nights]: learnt from, and spent on study and consolidation; `seed`.
    """
    days, phases = record["days"], record["phases"]
    slept = [phases["consolidate" + f"-{i + 1}" * (i > 0)] for i in range(len(days))]
    return {
        "seed": seed,
        "recall": [day["recall"] for day in days],
        "anchors": [day["scores"][STAGES[1]]["anchor_perplexity"] for day in days],
        "before": days[0]["scores"][STAGES[0]]["anchor_perplexity"],
        "open_book": [day["scores"][STAGES[-1]] for day in days],
        "tokens": [night["tokens"] for night in slept],
        "seconds": [night["seconds"] for night in slept],
    }


def retention(run: dict, kind: str) -> np.ndarray:
    """Shares right about day j after night i, [nights, days]; NaN for j > i."""
    nights = len(run["recall"])
    out = np.full((nights, nights), np.nan)
    for night, days in enumerate(run["recall"]):
        out[night, : len(days)] = [day[kind] for day in days]
    return out


def summarise(run: dict, kind: str) -> dict[str, float]:
    """Per cent: right after a day's own night, at the end, and the latter of the former."""
    shares = retention(run, kind)
    own, end = np.diag(shares), shares[-1]
    return {
        "after its own night": 100 * own.mean(),
        "at the end": 100 * end.mean(),
        "of the former": 100 * end.sum() / own.sum() if own.sum() else np.nan,
        "oldest half, at the end": 100 * end[: len(end) // 2].mean(),
    }


def table(arms: dict[str, Sequence[dict]]) -> str:
    """Markdown: mean and standard deviation over seeds of every arm; anchors in per cent more than
    before the first night; what it can do besides before that and after the last one."""
    lines, before = [], np.mean([run["before"] for run in arms["sleep"]])
    besides = capability_heads([run for runs in arms.values() for run in runs])
    for kind, title in KINDS.items():
        names = [*summarise(arms["sleep"][0], kind)]
        heads = [title, "seeds", *names, "anchor perplexity", "seconds a night", *besides]
        lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for arm, runs in arms.items():
            each = [summarise(run, kind) for run in runs]
            cells = [_spread([x[name] for x in each]) + " %" for name in names]
            cells.append(_spread([100 * (r["anchors"][-1] / before - 1) for r in runs], "+") + " %")
            cells.append(_spread([float(np.mean(run["seconds"])) for run in runs]))
            cells += capability_cells(runs) if besides else []
            lines.append(f"| {arm} | {len(runs)} | " + " | ".join(cells) + " |")
        ceiling = [100 * np.mean([x[kind] for x in run["open_book"]]) for run in arms["sleep"]]
        empty = " |" * (len(heads) - 3)
        lines += [f"| open book | {len(ceiling)} | {_spread(ceiling)} % |{empty}", ""]
    return "\n".join(lines).strip()


def matrices(arms: dict[str, Sequence[dict]]) -> str:
    """The questions right about each day after each night, per cent, mean over seeds."""
    lines = []
    for arm, runs in arms.items():
        mean = 100 * np.mean([retention(run, "questions") for run in runs], axis=0)
        days = [f"day {i + 1}" for i in range(len(mean))]
        lines += [
            "",
            f"| {arm}: after night | {' | '.join(days)} |",
            "|---" * (len(days) + 1) + "|",
        ]
        for night, shares in enumerate(mean):
            cells = ["" if np.isnan(x) else f"{x:.0f}" for x in shares]
            lines.append(f"| {night + 1} | {' | '.join(cells)} |")
    return "\n".join(lines)


def report(arms: dict[str, Sequence[dict]], is_published: bool) -> str:
    """Both; where `is_published`, the README has them, too, and results.json the figures."""
    text = table(arms) + "\n" + matrices(arms)
    if is_published:
        RESULTS.write_text(json.dumps(arms))
        publish(README, MARKS, text)
    return text


def _spread(values: Sequence[float], sign: str = "") -> str:
    spread = f" ± {np.std(values, ddof=1):.0f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.0f}{spread}"
