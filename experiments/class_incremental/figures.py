"""The results of all runs: the table of the README, and matrices of groups after groups."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from protocol import Sizes

from sleep_jax.baselines.capability import capability_cells, capability_heads
from sleep_jax.report.publish import publish, save_figure

FOLDER = pathlib.Path(__file__).parent
MARKS = ("<!-- table: written by run.py -->", "<!-- end of table -->")
RESAMPLES = 10_000
HEADS = (
    "arm",
    "texts kept (with labels)",
    "seeds",
    "all classes, at the end",
    "sleep is better by",
    "forgetting",
    "a group, just learnt",
    "anchor perplexity",
    "minutes a group",
)
KEPT = ("arm", "seed", "groups", "accuracy", "classes", "stores", "seconds", "anchors")
MEASURED = ("capability",)  # kept, too, by runs that have it


def matrix(run: dict) -> np.ndarray:
    """Share right about group j after group i, [groups, groups]; NaN where nothing was asked."""
    return np.asarray(run["accuracy"], float)


def final_accuracy(run: dict) -> float:
    """Share right over all classes at the end, each class as much as any other."""
    return float(np.mean([*run["classes"].values()]))


def forgetting(run: dict) -> float:
    """How far the groups but the last have fallen from their best to the end, mean over them
    (Chaudhry et al. 2018, arXiv 1801.10112); NaN of a single group or where only the end was
    asked."""
    shares = matrix(run)
    if len(shares) < 2 or np.isnan(shares[:-1]).all():
        return np.nan
    return float(np.mean(np.nanmax(shares[:-1, :-1], axis=0) - shares[-1, :-1]))


def when_learnt(run: dict) -> float:
    """Share right about each group just after it, mean."""
    return float(np.mean(np.diag(matrix(run))))


def by_arm(runs: Sequence[dict]) -> dict[str, list[dict]]:
    """The finished runs of each arm, by seed, the arms in the order of their first runs."""
    arms: dict[str, list[dict]] = {}
    for run in runs:
        if run["is_done"]:
            arms.setdefault(run["arm"], []).append(run)
    return {arm: sorted(group, key=lambda run: run["seed"]) for arm, group in arms.items()}


def paired_difference(
    runs: Sequence[dict], others: Sequence[dict]
) -> tuple[float, float, float] | None:
    """How much more is right at the end in runs than in others, class by class of the same seeds.

    Returns:
      (mean, low, high): the bounds of the middle 95 % of bootstrap means over (seed, class); None:
      no seed has both.
    """
    of_others = {run["seed"]: run["classes"] for run in others}
    gaps = np.array(
        [
            share - of_others[run["seed"]][label]
            for run in runs
            if run["seed"] in of_others
            for label, share in run["classes"].items()
        ]
    )
    if not len(gaps):
        return None
    rng = np.random.default_rng(0)
    means = gaps[rng.integers(len(gaps), size=(RESAMPLES, len(gaps)))].mean(axis=1)
    return float(gaps.mean()), *map(float, np.quantile(means, [0.025, 0.975]))


def table(runs: Sequence[dict], anchors: float, sizes: Sizes) -> str:
    """Markdown: mean and standard deviation over seeds, per cent; `anchors` is their perplexity
    before anything was learnt. What a model can do besides is shown before and after."""
    arms, besides = by_arm(runs), capability_heads(runs)
    heads = [*HEADS, *besides]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for arm, group in arms.items():
        cells = [arm, "{} ({})".format(*group[0]["stores"]), str(len(group))]
        cells.append(_spread([100 * final_accuracy(run) for run in group]) + " %")
        gap = None if arm == "sleep" else paired_difference(arms.get("sleep", []), group)
        cells.append(
            "" if gap is None else "{:+.0f} [{:+.0f}, {:+.0f}]".format(*(100 * x for x in gap))
        )
        cells += [
            _spread([100 * measure(run) for run in group]) for measure in (forgetting, when_learnt)
        ]
        cells.append(
            _spread([100 * (run["anchors"] / anchors - 1) for run in group], "+.0f") + " %"
        )
        cells.append(
            _spread(
                [float(np.sum(run["seconds"])) / 60 / len(run["seconds"]) for run in group], ".1f"
            )
        )
        cells += capability_cells(group) if besides else []
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _amounts(sizes)])


def _amounts(sizes: Sizes) -> str:
    return (
        f"{sizes.dataset}, {sizes.model}: {sizes.groups or 'all'} groups of {sizes.group_size} "
        f"classes, {sizes.train or 'all'} texts to learn from and {sizes.test or 'all'} test texts "
        f"a class. Every arm that trains has {sizes.updates} updates of {sizes.batch} texts a "
        "group, joint training those of all groups together. In brackets: 95 % of bootstrap means "
        "over classes, paired."
    )


def draw_matrices(runs: Sequence[dict], path: pathlib.Path) -> None:
    """One panel an arm: rows are nights, columns groups, colour the mean share over seeds."""
    arms = by_arm(runs)
    columns = min(5, len(arms))
    rows = -(-len(arms) // columns)
    figure, panels = plt.subplots(
        rows,
        columns,
        figsize=(2.4 * columns + 0.8, 2.6 * rows + 0.2),
        layout="constrained",
        squeeze=False,
    )
    for axes in panels.flat[len(arms) :]:
        axes.axis("off")
    for axes, (arm, group) in zip(panels.flat, arms.items()):
        mean = np.mean([matrix(run) for run in group], axis=0)
        edge = len(mean) + 0.5
        image = axes.imshow(mean, vmin=0, vmax=1, extent=(0.5, edge, edge, 0.5), aspect="equal")
        axes.set_title(arm, fontsize=9)
        axes.locator_params(integer=True, nbins=5)
    for axes in panels[:, 0]:
        axes.set_ylabel("after group")
    figure.colorbar(image, ax=list(panels.flat), label="share right, of group", shrink=0.9)
    save_figure(figure, path)
    plt.close(figure)


def report(folder: pathlib.Path, runs: Sequence[dict], anchors: float, sizes: Sizes) -> str:
    """Writes results.json, the matrices and, where the folder has a README, its table.

    Returns:
      The table.
    """
    done = [run for group in by_arm(runs).values() for run in group]
    if not done:
        return "No run has come to its end yet."
    text = table(done, anchors, sizes)
    results = [
        {name: run[name] for name in KEPT} | {name: run[name] for name in MEASURED if name in run}
        for run in done
    ]
    record = {"sizes": dataclasses.asdict(sizes), "anchors": anchors, "runs": results}
    (folder / "results.json").write_text(json.dumps(record))
    draw_matrices(done, folder / "matrices")
    if (folder / "README.md").exists():
        publish(folder / "README.md", MARKS, text)
    return text


def _spread(values: Sequence[float], form: str = ".0f") -> str:
    if np.isnan(values).any():
        return ""
    spread = f" ± {np.std(values, ddof=1):{form.lstrip('+')}}" if len(values) > 1 else ""
    return f"{np.mean(values):{form}}{spread}"
