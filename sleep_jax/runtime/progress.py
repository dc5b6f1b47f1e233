"""Output on the terminal: a live progress bar for each phase, and tables.

Where stdout is not a terminal (a log file, a batch queue) progress is printed as plain lines, one
at the start, one every half minute and one at the end. `SLEEP_JAX_QUIET=1` silences both.
"""

import contextlib
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from sleep_jax.fields import HALVES
from sleep_jax.runtime.preemption import Preempted

SECONDS_BETWEEN_LINES = 30.0
SHORT = 14  # characters of a column that is not wrapped
# Control characters but tab and newline, and lone surrogates.
_UNPRINTABLE = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f{HALVES}]")


class PhaseBar:
    """Progress of one phase, and its latest metrics. Made by `phase_progress`.

    Attributes:
      on_advance: called after every advance with the number of units done.
    """

    def __init__(self, phase: str, total: int | None, unit: str):
        self.phase, self.total, self.unit = phase, total, unit
        self.done = 0
        self.figures: dict[str, Any] = {}
        self.on_advance: Callable[[int], None] = lambda done: None
        self._started = time.monotonic()
        self._first_advance: tuple[float, int] | None = None

    def advance(self, n: int = 1, **figures: Any) -> None:
        """Adds `n` to the units done; `figures` replace the shown metrics of the same names."""
        self.done += n
        self.figures.update(figures)
        if self._first_advance is None:
            self._first_advance = (time.monotonic(), self.done)
        self._show()
        self.on_advance(self.done)

    @property
    def seconds(self) -> float:
        """Seconds since the phase began."""
        return time.monotonic() - self._started

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the remaining seconds; None until two units are done.

        The first one is left out of the estimate: most of it is compilation.
        """
        if self.total is None or self._first_advance is None:
            return None
        first_time, first_done = self._first_advance
        if self.done == first_done:
            return None
        seconds_a_unit = (time.monotonic() - first_time) / (self.done - first_done)
        return seconds_a_unit * max(self.total - self.done, 0)

    def count(self) -> str:
        """E.g. `12/120 steps`."""
        total = "" if self.total is None else f"/{self.total}"
        plural = "" if (self.total or self.done) == 1 else "s"
        return f"{self.done}{total} {self.unit}{plural}"

    def words(self) -> str:
        """The latest metrics, e.g. `kl 0.31  reward 0.4`; `-` for one without a value."""
        named = ((name.replace("_", " "), figure(x) or "-") for name, x in self.figures.items())
        return "  ".join(f"{name} {value}" for name, value in named)

    def left(self) -> str:
        """E.g. `4:10 left`; empty without an estimate."""
        return "" if self.seconds_left is None else f"{clock(self.seconds_left)} left"

    def line(self) -> str:
        """All of it on one plain line."""
        parts = (self.count(), self.words(), f"{clock(self.seconds)} elapsed", self.left())
        return f"{self.phase}: " + "  ".join(part for part in parts if part)

    def _show(self) -> None:
        """Shows nothing; subclasses do."""


class _PlainBar(PhaseBar):
    _last_line = float("-inf")

    def _show(self) -> None:
        now = time.monotonic()
        is_last = self.done == self.total  # then the closing line is printed
        if now - self._last_line >= SECONDS_BETWEEN_LINES and not is_last:
            self._last_line = now
            print(self.line(), flush=True)


class _LiveBar(PhaseBar):
    def __init__(self, phase: str, total: int | None, unit: str, progress: Progress):
        super().__init__(phase, total, unit)
        self._progress = progress
        self._task = progress.add_task(phase, total=total, count=self.count(), words="", left="")

    def _show(self) -> None:
        self._progress.update(
            self._task,
            total=self.total,  # may become known, or change
            completed=self.done,
            count=self.count(),
            words=self.words(),
            left=self.left(),
        )


@contextlib.contextmanager
def phase_progress(
    phase: str, total: int | None = None, unit: str = "step", *, quiet: bool | None = None
) -> Iterator[PhaseBar]:
    """Shows the progress of one phase while the block runs, and one closing line after it.

    Args:
      phase: its name, e.g. `consolidate`.
      total: number of units; None if it is not known, then there is no time estimate.
      unit: singular name of what `advance` counts.
      quiet: show nothing; None: as the variable SLEEP_JAX_QUIET says.
    """
    is_live = sys.stdout.isatty()
    if _is_quiet(quiet):
        yield PhaseBar(phase, total, unit)
        return
    with contextlib.ExitStack() as stack:
        if is_live:
            progress = stack.enter_context(_live_progress())
            bar: PhaseBar = _LiveBar(phase, total, unit, progress)
        else:
            bar = _PlainBar(phase, total, unit)
            plural = "" if total == 1 else "s"
            print(
                f"{phase}: starts" + (f", {total} {unit}{plural} to do" if total else ""),
                flush=True,
            )
            bar._last_line = time.monotonic()
        try:
            yield bar
        except BaseException as error:
            stack.close()
            print(f"{bar.line()}  {_ending(error)}", flush=True)
            raise
    bar.total = bar.total and bar.done  # a phase may end early
    summary = (bar.count(), bar.words(), clock(bar.seconds))
    print(f"{phase}: done  " + "  ".join(part for part in summary if part), flush=True)


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    quiet: bool | None = None,
) -> None:
    """Prints a table with numbers right-aligned. No cell is cut: a log is as wide as needed, a
    terminal wraps long columns, and short ones only where they do not all fit.
    """
    if _is_quiet(quiet):
        return
    # A notebook is no terminal either: with colours it would show a blank beside the text.
    plain = {"width": 10_000, "force_terminal": False, "force_jupyter": False}
    console = Console(**({} if sys.stdout.isatty() else plain))
    name = Text(printable(title))
    grid = Table(title=name, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    texts = [
        [printable(cell) if isinstance(cell, str) else figure(cell) for cell in row] for row in rows
    ]
    for index, column in enumerate(columns):
        longest = max(len(text) for text in (column, *(row[index] for row in texts)))
        grid.add_column(
            Text(printable(column)),
            justify="right" if all(_is_number(row[index]) for row in rows) else "left",
            overflow="fold",
            no_wrap=longest <= SHORT,
        )
    for row in texts:
        grid.add_row(*map(Text, row))
    if console.is_terminal:
        console.print(grid)
        return
    with console.capture() as capture:
        console.print(grid)
    print("\n".join(line.rstrip() for line in capture.get().rstrip().split("\n")), flush=True)


def say(*lines: str, quiet: bool | None = None) -> None:
    """Prints lines, also while a bar is shown."""
    if not _is_quiet(quiet):
        for line in lines:
            print(printable(line), flush=True)


def printable(text: str) -> str:
    """A text with U+FFFD for control characters, which a terminal would interpret, and for lone
    surrogates, which no encoding has; a model may write either.
    """
    return _UNPRINTABLE.sub("\ufffd", text)


def figure(value: Any) -> str:
    """A number as text: three significant digits, whole numbers in full.

    >>> figure(0.31234), figure(12345.6), figure(7), figure(None)
    ('0.312', '12,346', '7', '')
    """
    if value is None:
        return ""
    if isinstance(value, str | bool):
        return str(value)
    number = float(value)
    if number.is_integer() or 1000 <= abs(number) < math.inf:
        return f"{number:,.0f}"
    return f"{number:.3g}"


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss.

    >>> clock(62), clock(3723)
    ('1:02', '1:02:03')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _LiveProgress(Progress):
    """A bar with the metrics on a line of their own below it."""

    def get_renderables(self) -> Iterator[RenderableType]:
        for task in self.tasks:
            yield self.make_tasks_table([task])
            if task.fields["words"]:
                yield Text(f"  {task.fields['words']}", style="cyan")


def _live_progress() -> Progress:
    return _LiveProgress(
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[left]}"),
        transient=True,  # the closing line replaces the bar
    )


def _ending(error: BaseException) -> str:
    """How a phase ended that did not finish."""
    if isinstance(error, Preempted):
        return "preempted"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"stopped by {type(error).__name__}"


def _is_quiet(quiet: bool | None) -> bool:
    return os.environ.get("SLEEP_JAX_QUIET", "") not in ("", "0") if quiet is None else quiet


def _is_number(cell: Any) -> bool:
    """Whether a cell is a number, blank, or a text such as `44 %` or `1:02`."""
    text = "" if cell is None else str(cell)
    return not text or text.strip("+-~ ")[:1].isdigit()
