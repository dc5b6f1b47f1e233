"""The results of all runs: retention matrices, curves, and the table of the README."""

import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from sleep_jax.report.publish import publish, save_figure

FOLDER = pathlib.Path(__file__).parent
MARKS = ("<!-- table: written by run.py -->", "<!-- end of table -->")
COLUMNS = (
    ("read", "newest episode, awake"),
    ("newest", "newest episode, after its night"),
    ("five", "the last five, at the end"),
    ("oldest", "the first five, at the end"),
    ("all", "all, at the end"),
    ("anchors", "known before, at the end"),
)


def retention_matrix(run: dict) -> np.ndarray:
    """Recall of episode j after night i, [nights, episodes]; NaN for j > i."""
    return np.asarray(run["retention"], float)


def summarise(run: dict) -> dict[str, float]:
    """The figures of one run, by column of the table."""
    retention = retention_matrix(run)
    last = retention[-1]
    return {
        "read": np.mean(run["awake"]),
        "newest": np.mean(np.diag(retention)),
        "five": np.mean(last[-5:]),
        "oldest": np.mean(last[:5]),
        "all": np.mean(last),
        "anchors": run["anchors"][-1],
    }


def by_arm(runs: list[dict]) -> dict[str, list[dict]]:
    """The runs of each arm, in the order of the arms' first runs."""
    arms: dict[str, list[dict]] = {}
    for run in runs:
        arms.setdefault(run["arm"], []).append(run)
    return arms


def drawn(runs: list[dict]) -> list[dict]:
    """The runs that the figures show: all but those of ablations and of longer nights."""
    return [run for run in runs if "," not in run["arm"]]


def table(runs: list[dict]) -> str:
    """Mean and, of several seeds, standard deviation of every figure, per cent, as Markdown."""
    titles = ["seeds", *(title for _, title in COLUMNS)]
    lines = ["| arm | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for arm, arm_runs in by_arm(runs).items():
        figures = [summarise(run) for run in arm_runs]
        cells = [str(len(arm_runs))]
        for name, _ in COLUMNS:
            values = 100 * np.asarray([f[name] for f in figures])
            spread = f" ± {np.std(values, ddof=1):.0f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.0f}{spread}")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_retention(runs: list[dict], path: pathlib.Path) -> None:
    """One panel an arm: rows are nights, columns episodes, colour the mean recall over seeds."""
    arms = by_arm(runs)
    figure, panels = plt.subplots(
        1, len(arms), figsize=(2.6 * len(arms) + 0.8, 3.1), layout="constrained", squeeze=False
    )
    for axes, (arm, arm_runs) in zip(panels[0], arms.items()):
        mean = np.mean([retention_matrix(run) for run in arm_runs], axis=0)
        edge = len(mean) + 0.5
        image = axes.imshow(
            mean, vmin=0, vmax=1, cmap="viridis", extent=(0.5, edge, edge, 0.5), aspect="equal"
        )
        axes.set_title(arm.replace("_", " "), fontsize=10)
        axes.set_xlabel("episode")
        axes.locator_params(integer=True, nbins=5)
    panels[0][0].set_ylabel("night")
    figure.colorbar(image, ax=list(panels[0]), label="recall", shrink=0.9)
    save_figure(figure, path)
    plt.close(figure)


def draw_curves(runs: list[dict], path: pathlib.Path) -> None:
    """Mean recall of all episodes so far, and of the anchors, after each night; band: one standard
    deviation over seeds.
    """
    figure, (new, old) = plt.subplots(1, 2, figsize=(9.6, 3.3), layout="constrained", sharey=True)
    for arm, arm_runs in by_arm(runs).items():
        for axes, curves in (
            (new, [np.nanmean(retention_matrix(run), axis=1) for run in arm_runs]),
            (old, [run["anchors"] for run in arm_runs]),
        ):
            mean, spread = np.mean(curves, axis=0), np.std(curves, axis=0, ddof=len(curves) > 1)
            nights = np.arange(1, len(mean) + 1)
            [line] = axes.plot(nights, mean, lw=1.6, label=arm.replace("_", " "))
            axes.fill_between(
                nights, mean - spread, mean + spread, color=line.get_color(), alpha=0.18, lw=0
            )
    for axes, title in ((new, "all episodes so far"), (old, "facts the base was taught")):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("night")
        axes.set_ylim(0, 1.02)
        axes.locator_params(axis="x", integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    new.set_ylabel("recall")
    old.legend(frameon=False, fontsize=8)
    save_figure(figure, path)
    plt.close(figure)


def report(folder: pathlib.Path, runs: list[dict]) -> str:
    """Writes results.json, the figures and, where the folder has a README, its table.

    Returns:
      The table.
    """
    text = table(runs)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps([without_nights(run) for run in runs]))
    draw_retention(drawn(runs), folder / "retention")
    draw_curves(drawn(runs), folder / "curves")
    if (folder / "README.md").exists():
        publish(folder / "README.md", MARKS, text)
    return text


def without_nights(run: dict) -> dict:
    """A run as results.json has it: without the figures of its nights."""
    return {name: value for name, value in run.items() if name not in ("nights", "settings")}
