"""The comparison of a sweep as a figure."""

import statistics

from etils import epath

from sleep_jax.report.comparison import Comparison, unit_of, values_of
from sleep_jax.report.publish import save_figure


def draw(comparison: Comparison, path: epath.Path) -> None:
    """Draws one panel for each column: a dot for every run, a line for the mean of a variant, a
    dotted line for the score before the first night.

    Args:
      comparison: of the runs.
      path: of the figure, without suffix; an SVG and a PNG are written.
    """
    from matplotlib.figure import Figure  # slow to import

    columns, variants = comparison.columns, comparison.variants
    size = (2.1 * len(columns) + 1.6, 0.34 * len(variants) + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, (name, title) in zip(panels, columns.items()):
        unit, factor, _ = unit_of(name)
        for row, runs in enumerate(variants.values()):
            values = [factor * value for value in values_of(runs, name)]
            if not values:
                continue
            axes.plot(values, [row] * len(values), "o", ms=4.5, color="#1f5fa8", alpha=0.6, mew=0)
            axes.plot([statistics.mean(values)] * 2, (row - 0.3, row + 0.3), color="#1f5fa8", lw=2)
        if name in comparison.before:
            axes.axvline(factor * comparison.before[name], color="#999999", lw=0.9, ls=":")
        if unit:  # shares: from 0, and at least 10 points wide
            axes.set_xlim(-0.5, max(axes.get_xlim()[1], 10))
        axes.locator_params(axis="x", nbins=4)
        axes.set_title(title + (f",{unit}" if unit else ""), fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", lw=0.6)
        axes.set_axisbelow(True)
    panels[0].set_yticks(range(len(variants)), list(variants))
    panels[0].invert_yaxis()
    save_figure(figure, path)
