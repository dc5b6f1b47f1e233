"""What an experiment shows: a table between the marks of its README, and figures beside it."""

import pathlib
from typing import Any

from etils import epath


def publish(page: pathlib.Path, marks: tuple[str, str], text: str) -> None:
    """Replaces what stands between two marks of a page.

    Raises:
      ValueError: the page lacks one of the marks.
    """
    whole = page.read_text(encoding="utf-8")
    before, begin, rest = whole.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not end:
        raise ValueError(f"{page} lacks the mark {marks[1] if begin else marks[0]!r}; put it back")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def save_figure(figure: Any, path: pathlib.Path | epath.Path) -> None:
    """Writes a matplotlib figure as SVG and PNG.

    Args:
      figure: to be written.
      path: without its ending.
    """
    for ending, metadata in (("svg", {"Date": None}), ("png", None)):
        with path.with_suffix(f".{ending}").open("wb") as file:  # matplotlib knows no addresses
            figure.savefig(file, format=ending, dpi=150, metadata=metadata)
