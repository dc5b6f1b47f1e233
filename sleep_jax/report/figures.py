"""Figures of a report: SVG that takes colours and fonts from the page.

matplotlib draws with placeholder colours, which are replaced by CSS variables (`var(--ink)`), so
that a figure fits light and dark pages. Text stays text.
"""

import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sleep_jax.dreaming.curriculum import ROLES

PLACEHOLDERS = {"ink": "#010203", "muted": "#010204", "rule": "#010205"} | {
    name: f"#0102{index:02x}" for index, name in enumerate(("night", "dawn", "moss", "soft"), 6)
}
LINES = ("night", "dawn", "moss", "muted")
MIX = "contexts_"  # prefix of the metrics of `write` that count documents by role
NIGHTS = 3  # how many nights are drawn of each panel, the last ones
SMOOTH_FROM = 30  # number of steps from which a moving average is drawn over the faint curve


@dataclasses.dataclass(frozen=True)
class Panel:
    """A small figure of the metrics of `phase` whose names begin with `prefix`, by step."""

    phase: str
    prefix: str
    title: str


@dataclasses.dataclass(frozen=True)
class Curves:
    """A drawn panel: title, (name, CSS colour) of each series if there are several, SVG."""

    title: str
    key: tuple[tuple[str, str], ...]
    svg: str


PANELS = (
    Panel("consolidate", "kl", "Consolidation: divergence from the teacher, nats"),
    Panel("consolidate", "reward", "Consolidation: reward for imitation"),
    Panel("try", "gain", "Dreaming: rise of tau with each dream"),
)


def answers_chart(scores: Sequence[Mapping[str, Any]]) -> str | None:
    """Bars with the share of right answers at every stage; None without questions.

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
            bar = axes.barh(y + offset, share, 0.29, color=PLACEHOLDERS[color])
            if "context" in stage:
                bar[0].set(facecolor="none", edgecolor=PLACEHOLDERS["muted"], linewidth=0.8)
            axes.annotate(
                f"{100 * share:.0f} %", (share, y + offset), (5, 0), textcoords="offset points",
                va="center", fontsize=8.5, color=PLACEHOLDERS["ink"],
            )  # fmt: skip
    axes.set_yticks(range(len(shares)), list(shares), fontsize=9.5)
    axes.tick_params(axis="y", pad=8, labelcolor=PLACEHOLDERS["ink"])
    axes.set_xlim(0, 1.1 * max(np.nanmax(list(shares.values())), 0.1))
    axes.set_xticks([])
    axes.invert_yaxis()
    axes.spines["bottom"].set_visible(False)
    axes.grid(False)
    return _svg(figure)


def curves(metrics: Sequence[Mapping[str, Any]]) -> list[Curves]:
    """All panels that have data.

    Args:
      metrics: lines of metrics.jsonl; of numbered phases, such as `consolidate-2`, the last
        `NIGHTS` are drawn, one panel each. Lines of `try` with an `importance` are single dreams
        and have a panel of their own, and so have the documents of each night's dreams.
    """
    dreams = [row for row in _of_phase("try", metrics) if "importance" in row]
    drawn = [x for panel in PANELS for x in _nights(panel, metrics)]
    return [panel for panel in (*drawn, _dreams(dreams), _mix(metrics)) if panel]


def _nights(panel: Panel, metrics: Sequence[Mapping[str, Any]]) -> list[Curves]:
    """A panel for each of the last nights; the title of the first says how many are not drawn."""
    nights: dict[str, list[Mapping[str, Any]]] = {}
    for row in _of_phase(panel.phase, metrics):
        nights.setdefault(row["phase"], []).append(row)
    drawn = {label: x for label, rows in nights.items() if (x := _series(panel.prefix, rows))}
    last = list(drawn)[-NIGHTS:]
    names = {label: f" ({label})" for label in last} if len(drawn) > 1 else {}
    if (left := len(drawn) - NIGHTS) > 0:
        names[last[0]] = f" ({last[0]}; {left} earlier ones not drawn)"
    return [_panel(panel.title + names.get(label, ""), drawn[label]) for label in last]


def _panel(title: str, series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Curves:
    figure, axes = _axes(3.5, 1.9)
    for color, (steps, values) in zip(LINES, series.values()):
        ink = PLACEHOLDERS[color]
        if len(values) < SMOOTH_FROM:
            axes.plot(steps, values, color=ink, lw=1.4)
        else:
            axes.plot(steps, values, color=ink, lw=0.6, alpha=0.25)
            axes.plot(steps, _moving_average(values), color=ink, lw=1.5)
    _limit(axes, np.concatenate([values for _, values in series.values()]), "step")
    key = tuple(zip(series, LINES)) if len(series) > 1 else ()
    return Curves(title, key, _svg(figure))


def _dreams(rows: Sequence[Mapping[str, Any]]) -> Curves | None:
    """Importance of every dream; filled if its trial was rewarded (Eq. 5)."""
    importance = np.asarray([_number(row["importance"]) for row in rows])
    if not np.isfinite(importance).any():
        return None
    is_rewarded = np.asarray([_number(row.get("reward")) > 0 for row in rows])
    figure, axes = _axes(3.5, 1.9)
    order = np.arange(1, len(rows) + 1)
    for chosen, fill in ((is_rewarded, PLACEHOLDERS["night"]), (~is_rewarded, "none")):
        axes.plot(
            order[chosen], importance[chosen], "o", ms=4.2, mfc=fill, mec=PLACEHOLDERS["night"],
            mew=0.9, clip_on=False,
        )  # fmt: skip
    _limit(axes, importance, "dream")
    return Curves("Dreaming: importance; filled where the dream earned reward", (), _svg(figure))


def _mix(metrics: Sequence[Mapping[str, Any]]) -> Curves | None:
    """Number of documents that each night dreamt about, by role; None for a single night."""
    nights = [row for row in _of_phase("write", metrics) if f"{MIX}{ROLES[0]}" in row]
    if len(nights) < 2:
        return None
    figure, axes = _axes(3.5, 1.9)
    number, below = np.arange(1, len(nights) + 1), np.zeros(len(nights))
    for role, color in zip(ROLES, LINES):
        count = np.asarray([_number(row[f"{MIX}{role}"]) for row in nights])
        axes.bar(number, count, 0.6, below, color=PLACEHOLDERS[color])
        below += count
    _limit(axes, below, "night")
    return Curves("Dreaming: documents of a night", tuple(zip(ROLES, LINES)), _svg(figure))


def _limit(axes: Any, values: np.ndarray, x_label: str) -> None:
    """Sets limits from zero, unless there are negative values, and few ticks."""
    finite = values[np.isfinite(values)]
    if finite.min() >= 0:
        axes.set_ylim(0, max(float(finite.max()) * 1.08, 1e-9))
    axes.set_xlabel(x_label, fontsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
    axes.yaxis.get_major_locator().set_params(nbins=4)


def _of_phase(phase: str, metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The lines of `phase`, `phase-1`, `phase 2` and so on."""
    pattern = re.compile(rf"{phase}([-_/ ]?\d+)?")
    return [row for row in metrics if pattern.fullmatch(str(row.get("phase", "")))]


def _series(
    prefix: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{name: (steps [n], finite values [n])}, at most one for each colour."""
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
    """Mean over a centred window, shorter at the ends. [n] -> [n]."""
    window = np.ones(2 * (len(values) // 24) + 3)
    count = np.convolve(np.ones_like(values), window, mode="same")
    return np.convolve(values, window, mode="same") / count


def _axes(width: float, height: float) -> tuple[Any, Any]:
    """An empty figure of `width` x `height` inches in the style of the report."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(PLACEHOLDERS["rule"])
    axes.tick_params(length=0, labelsize=8, labelcolor=PLACEHOLDERS["muted"])
    axes.xaxis.label.set_color(PLACEHOLDERS["muted"])
    axes.yaxis.label.set_color(PLACEHOLDERS["muted"])
    axes.grid(axis="y", color=PLACEHOLDERS["rule"], lw=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any) -> str:
    """The figure as an <svg> element as wide as its container."""
    import matplotlib

    buffer = io.StringIO()
    no_metadata = {"Creator": None, "Date": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sleep_jax"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 width="100%"', svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[a-z]+[A-Za-z.]*_\d+">', "<g>", svg)  # ids would not be unique on a page
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for name, color in PLACEHOLDERS.items():
        svg = svg.replace(color, f"var(--{name})")
    return svg
