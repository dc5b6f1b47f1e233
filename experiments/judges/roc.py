"""ROC curves of the judges, and the figure of the README."""

import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from sleep_jax.report.publish import save_figure
from sleep_jax.rewards.calibration import JudgePair

COLORS = {
    "embedding": "#1f5fa8",
    "cosine": "#c2762e",
    "agreement": "#2b8a5b",
    "exact": "#777777",
    "model": "#a23b72",
}


def rates(scores: np.ndarray, same: np.ndarray, threshold: float) -> tuple[float, float]:
    """(true positive rate, false positive rate): the shares that reach a threshold."""
    return np.mean(scores[same] >= threshold), np.mean(scores[~same] >= threshold)


def area(scores: np.ndarray, same: np.ndarray) -> float:
    """Area under the ROC curve: the share of (same, different) pairs of pairs in which the first
    scores higher; ties count half.
    """
    alike, other = scores[same][:, None], scores[~same][None]
    return float(np.mean((alike > other) + 0.5 * (alike == other)))


def curve(scores: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Points (false, true) of the ROC curve from (0, 0) to (1, 1): [points, 2]."""
    levels = [np.inf, *np.unique(scores)[::-1]]
    points = [rates(scores, same, level)[::-1] for level in levels if level != -np.inf]
    return np.array([*points, (1.0, 1.0)])


def draw(results: dict, pairs: Sequence[JudgePair], path: pathlib.Path) -> None:
    """ROC curves with the calibrated thresholds on them; beside them the cosine of every pair.

    Args:
      results: what `calibrate.measure` returns, by judge.
      pairs: those that were scored.
      path: of the figure, without its ending; an SVG and a PNG are written.
    """
    same = np.array([pair.same for pair in pairs])
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9.6, 4.2), layout="constrained", width_ratios=(1, 1.15)
    )
    left.plot([0, 1], [0, 1], color="#bbbbbb", lw=0.8, ls=":")
    for name, row in results.items():
        scores = np.array([-np.inf if s is None else s for s in row["scores"]])
        if len(set(row["scores"])) > 2:
            x, y = curve(scores, same).T
            left.plot(x, y, color=COLORS[name], lw=1.5)
        label = f"{name} ({row['area']:.2f})"
        left.plot(row["false"], row["true"], "o", ms=6, color=COLORS[name], label=label)
    left.set_xlabel("share of pairs that differ, accepted")
    left.set_ylabel("share of pairs that say the same, accepted")
    left.set_title("dots: at the calibrated threshold", fontsize=10)
    left.legend(frameon=False, fontsize=8, loc="lower right", title="area", title_fontsize=8)

    scores = np.array(results["cosine"]["scores"], float)
    kinds = list(dict.fromkeys(pair.kind for pair in pairs))
    jitter = np.random.default_rng(0).uniform(-0.22, 0.22, len(pairs))
    for row, kind in enumerate(kinds):
        chosen = np.array([pair.kind == kind for pair in pairs])
        color = "#2b8a5b" if same[chosen][0] else "#b03a3a"
        right.plot(scores[chosen], row + jitter[chosen], "o", ms=3.6, color=color, alpha=0.75)
    for name, style in (("embedding", "--"), ("cosine", "-")):
        right.axvline(results[name]["threshold"], color=COLORS[name], lw=1, ls=style)
    right.set_yticks(range(len(kinds)), kinds, fontsize=8)
    right.invert_yaxis()
    right.set_xlabel("cosine")
    right.set_title("green: say the same; lines: the two thresholds", fontsize=10)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
    plt.close(figure)
