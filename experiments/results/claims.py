"""Claims, our figures about them, and what these say: the verdicts of the results page."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from scipy import stats

from sleep_jax.report.comparison import interval

HOLDS, DOES_NOT_SHOW, CONTRADICTED, NOT_RUN = "holds", "does not show", "contradicted", "not run"
KINDS = (HOLDS, DOES_NOT_SHOW, CONTRADICTED, NOT_RUN)
RULES = """\
- **holds**: the 95 % interval of our figure lies wholly on the side that the paper's is on.
- **does not show**: the interval contains the value that would mean no difference, or only touches
  it.
- **contradicted**: the interval lies wholly on the other side.
- **not run: needs ...**: there is no figure of ours.

No difference is 0, and 1 for times, unless a claim says what it is held against ("at most 2 %").
Where the paper has several figures, its side is that of their mean difference. Intervals are of
paired bootstraps over passages, documents, classes or tasks, of Student's t over seeds where runs
are paired by seed, and exact (Clopper and Pearson, as if replies were independent) for counts where
nothing was right before. An interval over the questions of one seed says nothing about other seeds.
Nothing is corrected for the number of claims."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of ours with its 95 % interval.

    Attributes:
      mean, low, high: the figure and its bounds.
      unit: of all three.
      form: how they are shown, of `format`.
      beside: shown after them, such as the two figures of a difference.
    """

    mean: float
    low: float
    high: float
    unit: str = "points"
    form: str = "+.1f"
    beside: str = ""

    def __str__(self) -> str:
        mean, low, high = (_signed(x, self.form) for x in (self.mean, self.low, self.high))
        bounds = f"[{low}, {high}]" if math.isfinite(self.high - self.low) else "(one seed)"
        return " ".join(x for x in (mean, self.unit, bounds, self.beside) if x)

    def __neg__(self) -> "Figure":
        return dataclasses.replace(self, mean=-self.mean, low=-self.high, high=-self.low)


def _signed(value: float, form: str) -> str:
    """A number, and zero without a minus."""
    text = format(value, form)
    return text if float(text) else format(0.0, form)


@dataclasses.dataclass(frozen=True)
class Claim:
    """What the paper says, and what there is of it here.

    Attributes:
      text: the claim.
      ours: our figure, or what a run of it would need.
      paper: the paper's figures; empty: it gives none.
      is_higher: on which side of `against` the paper's figure is.
      against: the value that would mean no difference.
      setting: which of our runs the figure is of.
    """

    text: str
    ours: Figure | str
    paper: str = ""
    is_higher: bool = True
    against: float = 0.0
    setting: str = ""

    @property
    def kind(self) -> str:
        """One of `KINDS`, by `RULES`."""
        if isinstance(self.ours, str):
            return NOT_RUN
        low, high = self.ours.low - self.against, self.ours.high - self.against
        if low <= 0 <= high:
            return DOES_NOT_SHOW
        return HOLDS if (low > 0) == self.is_higher else CONTRADICTED

    @property
    def verdict(self) -> str:
        """The kind and, of what was not run, what it needs."""
        return f"{NOT_RUN}: needs {self.ours}" if isinstance(self.ours, str) else self.kind

    @property
    def shown(self) -> str:
        """Our figure."""
        return "" if isinstance(self.ours, str) else str(self.ours)


@dataclasses.dataclass(frozen=True)
class Section:
    """A table of the paper, or claims of its method, beside one of our experiments.

    Attributes:
      title: of the section.
      claims: with our figures.
      experiment: folder of ours; empty: there is none.
      ours: its model, seeds and setting.
      command: that makes its figures.
      paper: what the paper has: an entry of paper.json.
    """

    title: str
    claims: Sequence[Claim]
    experiment: str = ""
    ours: str = ""
    command: str = ""
    paper: dict[str, Any] | None = None


def over_seeds(ours: Sequence[float], others: Sequence[float], scale: float = 1, **shown) -> Figure:
    """The mean of the differences of runs that are paired by seed, and its t interval, beside both
    means; with one seed the interval has no bounds.

    Args:
      ours, others: a figure of each seed, in the same order.
      scale: 100 for points of shares.
      **shown: `unit` and `form` of the figure.
    """
    gaps = [scale * float(x - y) for x, y in zip(ours, others, strict=True)]
    bounds = interval(gaps) if len(gaps) > 1 else (-math.inf, math.inf)
    digits = shown.get("form", Figure.form).lstrip("+")
    means = (format(scale * statistics.fmean(map(float, x)), digits) for x in (ours, others))
    beside = "({} and {})".format(*means)
    return Figure(statistics.mean(gaps), *bounds, beside=beside, **shown)


def of_count(right: int, of: int) -> Figure:
    """A share of right replies where none was right before, in per cent, with its exact
    interval."""
    low, high = stats.binomtest(right, of).proportion_ci(0.95)
    share, low, high = (100 * float(x) for x in (right / of, low, high))
    return Figure(share, low, high, "%", ".0f", f"({right} of {of})")
