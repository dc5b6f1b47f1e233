"""Publishes results of an experiment: a table between two marks of its README, and figures."""

import pathlib
from typing import Any

from etils import epath


def publish(page: pathlib.Path, marks: tuple[str, str], text: str) -> None:
    """Replaces the text between two marks of a page.

    Raises:
      ValueError: the page lacks one of the marks.
    """
    content = page.read_text(encoding="utf-8")
    before, begin, rest = content.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not end:
        raise ValueError(f"{page} lacks the mark {marks[1] if begin else marks[0]!r}; put it back")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def save_figure(figure: Any, path: pathlib.Path | epath.Path) -> None:
    """Writes a matplotlib figure as SVG and PNG.

    Args:
      figure: the figure.
      path: of the files, without suffix.
    """
    for suffix, metadata in (("svg", {"Date": None}), ("png", None)):
        # Through a file: matplotlib cannot write to addresses.
        with path.with_suffix(f".{suffix}").open("wb") as file:
            figure.savefig(file, format=suffix, dpi=150, metadata=metadata)
