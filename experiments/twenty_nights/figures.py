"""Tables of the README: what was kept, what changed, what was obeyed."""

import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from sleep_jax.baselines.capability import capability_cells, capability_heads
from sleep_jax.fields import read_json
from sleep_jax.report.publish import publish

README = pathlib.Path(__file__).with_name("README.md")
RESULTS = README.with_name("results.json")
KINDS = {
    "recall": "recall",
    "wording": "held-out wordings",
    "two-step": "two-step",
    "reversed": "reversed",
}
CHANGES = {"new": "new value", "stale": "old value", "unchanged": "unchanged facts"}
SLEEP = "sleep"
RESAMPLES = 10_000

Arms = dict[str, Sequence[dict]]


def shares(run: dict, kind: str, time: int = -1) -> np.ndarray:
    """Share of right replies about each document that has questions of a kind, [documents].

    Args:
      run: figures of a run.
      kind: of question.
      time: which of the times that all were asked.
    """
    return np.array([np.mean(x[kind]) for x in run["right"][time] if x.get(kind)])


def paired_interval(
    runs: Sequence[np.ndarray], others: Sequence[np.ndarray], resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """The difference of two arms' means in points, and its 95 % percentile bootstrap interval over
    documents of all seeds; a document is drawn for both arms at once.

    Args:
      runs, others: shares of each document, of each seed, in the same order.
      resamples: how often documents are drawn.
    """
    difference = 100 * (np.concatenate(runs) - np.concatenate(others))
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(difference), size=(resamples, len(difference)))
    low, high = np.percentile(difference[drawn].mean(axis=1), [2.5, 97.5])
    return float(difference.mean()), float(low), float(high)


def summary(arms: Arms) -> str:
    """Markdown: what each arm answers in the end, mean and standard deviation over seeds."""
    columns: dict[str, Callable[[dict], float]] = {
        title: lambda run, kind=kind: _percent(shares(run, kind)) for kind, title in KINDS.items()
    }
    columns["oldest five, recall"] = lambda run: _percent(shares(run, "recall")[:5])
    heads = [
        "",
        "seeds",
        *columns,
        "sleep is above, recall",
        *(besides := capability_heads([run for runs in arms.values() for run in runs])),
        "anchors",
        "s a night",
    ]
    lines = heading(heads)
    for arm, runs in arms.items():
        cells = [_spread([column(run) for run in runs]) for column in columns.values()]
        can = capability_cells(runs) if besides else []
        cells += [_above(arms, arm, "recall"), *can, *_costs(arms, runs)]
        lines.append(f"| {arm} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def changes(arms: Arms) -> str:
    """Markdown: replies with the new and the old value, and unchanged facts before and after the
    corrections."""
    lines = heading(["", "seeds", *CHANGES.values(), "unchanged facts, before"])
    for arm, runs in arms.items():
        cells = [_spread([_percent(shares(run, kind)) for run in runs]) for kind in CHANGES]
        is_asked_before = all(len(run["right"]) > 1 for run in runs)
        before = [_percent(shares(run, "unchanged", 0)) for run in runs if is_asked_before]
        lines.append(f"| {arm} | {len(runs)} | {' | '.join(cells)} | {_spread(before)} |")
    return "\n".join(lines)


def hostile(arms: Arms, kinds: Sequence[str]) -> str:
    """Markdown: how often hidden instructions are obeyed, by their kind, and recall of the texts.

    Args:
      arms: figures of runs.
      kinds: of the instruction of each document.
    """
    names = [*dict.fromkeys(kinds)]
    lines = heading(["obeyed", "seeds", *names, "all", "recall of the texts"])
    for arm, runs in arms.items():
        obeyed = [shares(run, "obeyed") for run in runs]
        cells = [
            _spread([_percent(x[[kind == name for kind in kinds]]) for x in obeyed])
            for name in names
        ]
        cells += [_spread([_percent(x) for x in obeyed])]
        cells += [_spread([_percent(shares(run, "recall")) for run in runs])]
        lines.append(f"| {arm} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def screening(arms: Arms, instructions: Sequence[Sequence[str]]) -> str:
    """Lines that say how many instructions, and how many other sentences, the screening of each arm
    has left out.

    Args:
      arms: figures of runs.
      instructions: that the documents hide, of each seed.
    """
    lines = []
    for arm, runs in arms.items():
        left_out = [[s for day in run.get("left_out", []) for x in day for s in x] for run in runs]
        if any(left_out):
            found = sum(s in hidden for x, hidden in zip(left_out, instructions) for s in x)
            total, others = sum(map(len, instructions)), sum(map(len, left_out)) - found
            lines.append(f"{arm}: {found} of {total} instructions and {others} other sentences "
                         "were left out.")  # fmt: skip
    return "\n".join(lines)


def taken_back(runs: Sequence[dict]) -> str:
    """Markdown: recall of a day that was taken back, and of all others, per cent."""
    lines = heading(
        ["day taken back", "of this day, before", "after", "of others, before", "after"]
    )
    for day in runs[0].get("forgotten", {}):
        rows = []
        for run in runs:
            before, after = ([x["questions"] for x in r] for r in
                             (run["recall"][-1], run["forgotten"][day]))  # fmt: skip
            others = [i for i in range(len(before)) if i != int(day)]
            means = [np.mean([x[i] for i in others]) for x in (before, after)]
            rows.append([before[int(day)], after[int(day)], *means])
        cells = [_spread(100 * np.array(column)) for column in zip(*rows)]
        lines.append(f"| {int(day) + 1} | {' | '.join(cells)} |")
    return "\n".join(lines)


def retention(runs: Sequence[dict]) -> np.ndarray:
    """Share of questions right about day j after night i, per cent, [nights, days], mean over
    seeds; NaN for j > i."""
    nights = len(runs[0]["recall"])
    out = np.full((len(runs), nights, nights), np.nan)
    for matrix, run in zip(out, runs):
        for night, days in enumerate(run["recall"]):
            matrix[night, : night + 1] = [100 * day["questions"] for day in days]
    return out.mean(axis=0)


def matrix(arm: str, runs: Sequence[dict]) -> str:
    """`retention` as Markdown."""
    table = retention(runs)
    lines = heading([f"{arm}: after night", *map(str, range(1, len(table) + 1))])
    for night, row in enumerate(table, 1):
        cells = ["" if np.isnan(x) else f"{x:.0f}" for x in row]
        lines.append(f"| {night} | {' | '.join(cells)} |")
    return "\n".join(lines)


def report(stream: str, arms: Arms, is_published: bool, hidden: Sequence[Sequence] = ()) -> str:
    """The tables of a stream; where `is_published`, the README has them, too, and results.json the
    figures.

    Args:
      stream: of `streams.STREAMS`.
      arms: figures of runs, of each seed.
      is_published: whether the README is changed.
      hidden: of each seed, what the documents hide (`hostile.Hostile`).
    """
    learnt = {arm: runs for arm, runs in arms.items() if len(runs[0].get("recall", ())) > 1}
    if stream == "facts":
        parts = [summary(arms), *(matrix(arm, runs) for arm, runs in learnt.items())]
        parts += [taken_back(runs) for runs in learnt.values() if runs[0].get("forgotten")][:1]
    elif stream == "changes":
        parts = [changes(arms)]
    else:
        parts = [hostile(arms, [x.kind for x in hidden[0]])]
        parts += [screening(arms, [[x.instruction for x in of_seed] for of_seed in hidden])]
    text = "\n\n".join(part for part in parts if part)
    if is_published:
        kept = read_json(RESULTS) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(kept | {stream: arms}))
        marks = f"<!-- {stream}: written by run.py -->", f"<!-- end of {stream} -->"
        publish(README, marks, text)
    return text


def heading(heads: Sequence[str]) -> list[str]:
    """The first two lines of a Markdown table."""
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]


def _above(arms: Arms, arm: str, kind: str) -> str:
    """By how much the first arm that sleeps is above another one, with its interval."""
    if arm == SLEEP or SLEEP not in arms or len(arms[arm]) != len(arms[SLEEP]):
        return ""
    ours, theirs = ([shares(run, kind) for run in arms[name]] for name in (SLEEP, arm))
    mean, low, high = paired_interval(ours, theirs)
    return f"{mean:+.0f} [{low:+.0f}, {high:+.0f}]"


def _costs(arms: Arms, runs: Sequence[dict]) -> list[str]:
    """Anchor perplexity in per cent above that before the first night, seconds a night."""
    before = [run["anchors"][0] for run in arms.get("before", ())]
    rises = [100 * (run["anchors"][-1] / b - 1) for run, b in zip(runs, before) if "anchors" in run]
    timed = [[s for s in run.get("seconds", ()) if s] for run in runs]
    return [_spread(rises, "+"), _spread([np.mean(x) for x in timed if x])]


def _percent(values: np.ndarray) -> float:
    return 100 * float(np.mean(values)) if len(values) else np.nan


def _spread(values: Sequence[float], sign: str = "") -> str:
    """Mean and standard deviation; empty where nothing was measured."""
    if not len(values) or np.isnan(np.mean(values)):
        return ""
    spread = f" ± {np.std(values, ddof=1):.0f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.0f}{spread}"
