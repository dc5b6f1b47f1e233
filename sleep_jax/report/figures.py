"""The figures of a report: SVG that takes its colours and fonts from the page around it.

matplotlib draws in stand-in colours, which become CSS variables (`var(--ink)`), so one figure reads
well on light and on dark paper. Text stays text.
"""

import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sleep_jax.dreaming.curriculum import ROLES

STAND_INS = {"ink": "#010203", "muted": "#010204", "rule": "#010205"} | {
    name: f"#0102{index:02x}" for index, name in enumerate(("night", "dawn", "moss", "soft"), 6)
}
LINES = ("night", "dawn", "moss", "muted")
MIX = "contexts_"  # What the metrics of `write` that count documents by role begin with.
NIGHTS = 3  # Drawn of each panel, the last ones.
SMOOTH_FROM = 30  # Steps from which a curve is drawn as a moving average over its faint self.


@dataclasses.dataclass(frozen=True)
class Panel:
    """A small figure of the metrics of `phase` whose names begin with `prefix`, over its steps."""

    phase: str
    prefix: str
    title: str


@dataclasses.dataclass(frozen=True)
class Curves:
    """A drawn panel: its title, (name, CSS colour) of each series if several, and the SVG."""

    title: str
    key: tuple[tuple[str, str], ...]
    svg: str


PANELS = (
    Panel("consolidate", "kl", "Consolidation: divergence from the teacher, nats"),
    Panel("consolidate", "reward", "Consolidation: reward for imitation"),
    Panel("try", "gain", "Dreaming: rise of tau with each dream"),
)


def answers_chart(scores: Sequence[Mapping[str, Any]]) -> str | None:
    """Bars of the share of answers right at every stage; None where nothing was asked.

    Args:
      scores: `{"stage", "questions", "paraphrases"}` with shares in [0, 1]; a share may be missing.
    """
    shares = {
        row["stage"]: [_number(row.get(key)) for key in ("questions", "paraphrases")]
        for row in scores
    }
    shares = {stage: both for stage, both in shares.items() if np.isfinite(both).any()}
    if not shares:
        return None
    figure, axes = _axes(7.2, 0.3 + 0.58 * len(shares))
    for y, (stage, both) in enumerate(shares.items()):
        for offset, share, color in zip((-0.17, 0.17), both, ("night", "soft")):
            if not np.isfinite(share):
                continue
            bar = axes.barh(y + offset, share, 0.29, color=STAND_INS[color])
            if "context" in stage:
                bar[0].set(facecolor="none", edgecolor=STAND_INS["muted"], linewidth=0.8)
            axes.annotate(
                f"{100 * share:.0f} %", (share, y + offset), (5, 0), textcoords="offset points",
                va="center", fontsize=8.5, color=STAND_INS["ink"],
            )  # fmt: skip
    axes.set_yticks(range(len(shares)), list(shares), fontsize=9.5)
    axes.tick_params(axis="y", pad=8, labelcolor=STAND_INS["ink"])
    axes.set_xlim(0, 1.1 * max(np.nanmax(list(shares.values())), 0.1))
    axes.set_xticks([])
    axes.invert_yaxis()
    axes.spines["bottom"].set_visible(False)
    axes.grid(False)
    return _svg(figure)


def curves(metrics: Sequence[Mapping[str, Any]]) -> list[Curves]:
    """Every panel that has something to show.

    Args:
      metrics: the lines of metrics.jsonl; a phase may be numbered, as in `consolidate-2`, and then
        the last `NIGHTS` are drawn, each for itself. Lines of `try` that carry an `importance` are
        single dreams and get a panel of their own, and so do the documents that several nights
        dreamt about.
    """
    dreams = [row for row in _of_phase("try", metrics) if "importance" in row]
    drawn = [x for panel in PANELS for x in _nights(panel, metrics)]
    return [panel for panel in (*drawn, _dreams(dreams), _mix(metrics)) if panel]


def _nights(panel: Panel, metrics: Sequence[Mapping[str, Any]]) -> list[Curves]:
    """A panel for each of the last nights; the first of them says how many are not drawn."""
    nights: dict[str, list[Mapping[str, Any]]] = {}
    for row in _of_phase(panel.phase, metrics):
        nights.setdefault(row["phase"], []).append(row)
    drawn = {label: x for label, rows in nights.items() if (x := _series(panel.prefix, rows))}
    last = list(drawn)[-NIGHTS:]
    names = {label: f" ({label})" for label in last} if len(drawn) > 1 else {}
    if (left := len(drawn) - NIGHTS) > 0:
        names[last[0]] = f" ({last[0]}; {left} before it not drawn)"
    return [_panel(panel.title + names.get(label, ""), drawn[label]) for label in last]


def _panel(title: str, series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Curves:
    figure, axes = _axes(3.5, 1.9)
    for color, (steps, values) in zip(LINES, series.values()):
        ink = STAND_INS[color]
        if len(values) < SMOOTH_FROM:
            axes.plot(steps, values, color=ink, lw=1.4)
        else:
            axes.plot(steps, values, color=ink, lw=0.6, alpha=0.25)
            axes.plot(steps, _moving_average(values), color=ink, lw=1.5)
    _limit(axes, np.concatenate([values for _, values in series.values()]), "step")
    key = tuple(zip(series, LINES)) if len(series) > 1 else ()
    return Curves(title, key, _svg(figure))


def _dreams(rows: Sequence[Mapping[str, Any]]) -> Curves | None:
    """Importance of every dream; filled where trying it was rewarded (Eq. 5)."""
    importance = np.asarray([_number(row["importance"]) for row in rows])
    if not np.isfinite(importance).any():
        return None
    is_rewarded = np.asarray([_number(row.get("reward")) > 0 for row in rows])
    figure, axes = _axes(3.5, 1.9)
    order = np.arange(1, len(rows) + 1)
    for chosen, fill in ((is_rewarded, STAND_INS["night"]), (~is_rewarded, "none")):
        axes.plot(
            order[chosen], importance[chosen], "o", ms=4.2, mfc=fill, mec=STAND_INS["night"],
            mew=0.9, clip_on=False,
        )  # fmt: skip
    _limit(axes, importance, "dream")
    return Curves("Dreaming: importance; filled where the dream earned reward", (), _svg(figure))


def _mix(metrics: Sequence[Mapping[str, Any]]) -> Curves | None:
    """How many documents of each role every night dreamt about; None for a single night."""
    nights = [row for row in _of_phase("write", metrics) if f"{MIX}{ROLES[0]}" in row]
    if len(nights) < 2:
        return None
    figure, axes = _axes(3.5, 1.9)
    number, below = np.arange(1, len(nights) + 1), np.zeros(len(nights))
    for role, color in zip(ROLES, LINES):
        count = np.asarray([_number(row[f"{MIX}{role}"]) for row in nights])
        axes.bar(number, count, 0.6, below, color=STAND_INS[color])
        below += count
    _limit(axes, below, "night")
    return Curves("Dreaming: documents of a night", tuple(zip(ROLES, LINES)), _svg(figure))


def _limit(axes: Any, values: np.ndarray, x_label: str) -> None:
    """From zero where nothing lies below it, with few ticks."""
    finite = values[np.isfinite(values)]
    if finite.min() >= 0:
        axes.set_ylim(0, max(float(finite.max()) * 1.08, 1e-9))
    axes.set_xlabel(x_label, fontsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
    axes.yaxis.get_major_locator().set_params(nbins=4)


def _of_phase(phase: str, metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The lines of `phase`, `phase-1`, `phase 2`, ..."""
    pattern = re.compile(rf"{phase}([-_/ ]?\d+)?")
    return [row for row in metrics if pattern.fullmatch(str(row.get("phase", "")))]


def _series(
    prefix: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{name: (steps [n], finite values [n])}, at most as many as there are colours."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for key, value in row.items():
            if key.startswith(prefix) and np.isfinite(figure := _number(value)):
                name = key.replace("_", " ").replace("/", " ")
                points.setdefault(name, []).append((row["step"], figure))
    names = list(points)[: len(LINES)]
    return {name: tuple(np.asarray(points[name], dtype=float).T) for name in names}


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _moving_average(values: np.ndarray) -> np.ndarray:
    """Mean over a window around each point, shorter at the ends, so nothing lags. [n] -> [n]."""
    window = np.ones(2 * (len(values) // 24) + 3)
    count = np.convolve(np.ones_like(values), window, mode="same")
    return np.convolve(values, window, mode="same") / count


def _axes(width: float, height: float) -> tuple[Any, Any]:
    """An empty figure of `width` x `height` inches with the report's quiet axes."""
    from matplotlib.figure import Figure  # Only a report needs it, and it is slow to import.

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(STAND_INS["rule"])
    axes.tick_params(length=0, labelsize=8, labelcolor=STAND_INS["muted"])
    axes.xaxis.label.set_color(STAND_INS["muted"])
    axes.yaxis.label.set_color(STAND_INS["muted"])
    axes.grid(axis="y", color=STAND_INS["rule"], lw=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any) -> str:
    """The figure as an <svg> element that fills its container's width."""
    import matplotlib

    buffer = io.StringIO()
    quiet = {"Creator": None, "Date": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sleep_jax"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=quiet)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 width="100%"', svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[a-z]+[A-Za-z.]*_\d+">', "<g>", svg)  # Not unique on a page of several.
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for name, color in STAND_INS.items():
        svg = svg.replace(color, f"var(--{name})")
    return svg
