"""Answers as matplotlib figures, for a notebook."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from sleep_jax.inspect.memory import LevelSlots

INK, MUTED = "#22303c", "#8a97a3"
HOURS = {"day": "#e0a458", "night": "#3d5a80", "morning": "#81b29a"}
LINES = ("#3d5a80", "#c8553d", "#81b29a", "#e0a458", MUTED)


def timeline(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Phases as bars on one clock, and the slots in use after each.

    Args:
      rows: of `Run.timeline`.
    """
    seconds = np.asarray([row["seconds"] or 0.0 for row in rows])
    starts = np.cumsum(seconds) - seconds
    levels = sorted({n for row in rows for n in row["slots"]})
    figure, (top, below) = plt.subplots(
        2, 1, figsize=(9, 3.6), sharex=True, height_ratios=(1, 1.4), layout="constrained"
    )
    for hour, color in HOURS.items():
        of_hour = np.asarray([row["hour"] == hour for row in rows])
        top.barh(
            0, seconds[of_hour], left=starts[of_hour], color=color, edgecolor="white", label=hour
        )
    for row, start, length in zip(rows, starts, seconds):
        if length > 0.08 * seconds.sum():
            middle = (start + length / 2, 0)
            top.annotate(row["phase"], middle, ha="center", va="center", color="white", fontsize=8)
    top.legend(ncols=len(HOURS), loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    top.set_yticks([])
    for n, color in zip(levels, LINES):
        points = [(x, row["slots"][n]) for x, row in zip(starts + seconds, rows) if row["slots"]]
        ends, counts = zip(*points)
        used, capacity = zip(*counts)
        below.step([0, *ends], [0, *used], where="post", color=color, label=f"level {n}")
        below.axhline(capacity[-1], color=color, lw=0.8, ls=":")
    below.set(xlabel="seconds", ylabel="slots in use", ylim=(0, None))
    below.yaxis.get_major_locator().set_params(integer=True)
    below.legend(frameon=False)
    return _finished(figure)


def slots(levels: Sequence[LevelSlots], leaf: str = "down") -> Figure:
    """One heat map for each level: the norm of every slot in every layer; unused slots are blank.

    Args:
      levels: of `memory.slots`.
      leaf: name of the matrix; of `lora` experts, where there is none of this name, `LEAF_b`.
    """
    shown = [level for level in levels if level.capacity]
    figure, all_axes = plt.subplots(
        len(shown), 1, figsize=(9, 1 + 1.1 * len(shown)), squeeze=False, layout="constrained"
    )
    for axes, level in zip(all_axes[:, 0], shown):
        name = f"{leaf}_b" if f"{leaf}_b" in level.norms else leaf
        norms = level.norms.get(name, np.full(level.active.shape, np.nan))
        image = axes.imshow(norms.T, aspect="auto", cmap="viridis", interpolation="nearest")
        axes.set(xlabel="layer", ylabel="slot", yticks=range(level.capacity))
        axes.set_title(f"level {level.level}: |{name}| of {level.used} of {level.capacity} slots")
        if level.used:
            figure.colorbar(image, ax=axes)
    return _finished(figure)


def curves(phases: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]) -> Figure:
    """A panel for divergence and one for reward, with a line for each phase and metric.

    Args:
      phases: of `Run.curves`.
    """
    figure, panels = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for axes, word, title in zip(panels, ("kl", "reward"), ("divergence, nats", "reward")):
        lines = [
            (f"{phase}: {name.replace('_', ' ')}", points)
            for phase, named in phases.items()
            for name, points in named.items()
            if word in name and len(points) > 1
        ]
        for number, (label, points) in enumerate(lines):
            axes.plot(*zip(*points), color=LINES[number % len(LINES)], lw=1.4, label=label)
        axes.set(title=title, xlabel="step")
        if lines:
            axes.legend(frameon=False, fontsize=8)
    return _finished(figure)


def answers(scores: Sequence[Mapping[str, Any]]) -> Figure:
    """Share of right answers at every stage; hollow with the document in context.

    Args:
      scores: of `Run.scores`.
    """
    kinds = [k for k in ("questions", "paraphrases") if any(k in row for row in scores)]
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.5 * len(scores)), layout="constrained")
    for offset, kind, color in zip((-0.18, 0.18), kinds, LINES):
        for y, row in enumerate(scores):
            is_hollow = "context" in row["stage"]
            fill = {"facecolor": "none" if is_hollow else color, "edgecolor": color}
            bar = axes.barh(y + offset, 100 * row.get(kind, np.nan), 0.32, **fill)
            bar.set_label(kind if y == 0 else "_")
    axes.set_yticks(range(len(scores)), [row["stage"] for row in scores])
    axes.set(xlabel="answers right, %", xlim=(0, 100))
    axes.invert_yaxis()
    if kinds:
        axes.legend(frameon=False)
    return _finished(figure)


def _finished(figure: Figure) -> Figure:
    """The figure in the common style; closed, so that a notebook shows it once."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=8)
        axes.title.set(fontsize=10, color=INK)
    plt.close(figure)
    return figure
