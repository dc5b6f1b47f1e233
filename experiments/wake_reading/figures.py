"""The results of all runs: the table of the README, its figure and results.json."""

import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from sleep_jax.report.publish import publish as publish_text
from sleep_jax.report.publish import save_figure

HERE = pathlib.Path(__file__).parent
MARKS = ("<!-- table: written by run.py -->", "<!-- end of table -->")


def quarters(run: dict) -> np.ndarray:
    """Nats a token in each quarter of what was read."""
    return np.asarray([part.mean() for part in np.array_split(np.asarray(run["losses"]), 4)])


def label(run: dict) -> str:
    """What tells a run from others over the same tokens."""
    return run["arm"] if run["rate"] is None else f"{run['arm']}, {run['rate']:g}"


def readings(runs: list[dict]) -> dict[tuple, list[dict]]:
    """The runs over each text, by (text, start)."""
    out: dict[tuple, list[dict]] = {}
    for run in runs:
        out.setdefault((run["text"], run["start"]), []).append(run)
    return out


def table(runs: list[dict]) -> str:
    """Nats a token by quarter, the last one's difference to no learning, and anchors; Markdown."""
    lines = [
        "| text, first token | error term, rate | 1st quarter | 2nd | 3rd | 4th | 4th, less none "
        "| anchors |",
        "|---" * 8 + "|",
    ]
    for (text, start), same in readings(runs).items():
        none = next((quarters(run) for run in same if run["arm"] == "none"), None)
        for run in same:
            nats = quarters(run)
            gain = "" if none is None else f"{nats[-1] - none[-1]:+.3f}"
            before, after = run["anchors"]
            cells = [f"{text}, {start:,}", label(run), *(f"{x:.3f}" for x in nats), gain]
            lines.append("| " + " | ".join([*cells, f"{after / before - 1:+.1%}"]) + " |")
    return "\n".join(lines)


def draw(runs: list[dict], path: pathlib.Path) -> None:
    """What each error term gains over no learning, as the text is read."""
    groups = readings(runs)
    figure, panels = plt.subplots(
        1, len(groups), figsize=(4.5 * len(groups), 3.2), layout="constrained", squeeze=False
    )
    for axes, ((text, start), same) in zip(panels[0], groups.items()):
        none = next(np.asarray(run["losses"]) for run in same if run["arm"] == "none")
        for run in same:
            thousands = (np.asarray(run["losses"]) - none).reshape(-1, 4).mean(1)
            axes.plot(np.arange(1, len(thousands) + 1), thousands, label=label(run))
        axes.set_title(f"{text.replace('_', ' ')}, from token {start:,}", fontsize=10)
        axes.set_xlabel("thousand tokens read")
        axes.set_ylabel("nats a token, less no learning")
        axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)
    plt.close(figure)


def report(runs: list[dict], workdir: pathlib.Path, publish: bool) -> None:
    """Prints the table and draws the figure; with `publish` also beside this file."""
    text = table(runs)
    print(text)
    is_compared = all(any(r["arm"] == "none" for r in same) for same in readings(runs).values())
    if is_compared:
        draw(runs, workdir / "reading")
    if publish:
        draw(runs, HERE / "reading")
        (HERE / "results.json").write_text(json.dumps(runs, indent=1) + "\n")
        publish_text(HERE / "README.md", MARKS, text)
