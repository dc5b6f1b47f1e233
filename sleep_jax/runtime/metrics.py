"""Metrics of a run, written as TensorBoard events and as JSON lines.

workdir/metrics.jsonl         one line for each call: {"phase", "step", "time", **values}
workdir/tensorboard/<phase>/  the same values, one TensorBoard run for each phase

A run that was stopped and resumed writes the lines of an uninterrupted one, but for `time` and the
values named `time/...`, which are durations and resources.

Where workdir is an address such as gs://bucket/run, whose files cannot be appended to, the whole
file is written every half minute and at the end of a phase.
"""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from sleep_jax.addresses import is_remote
from sleep_jax.fields import as_object, as_text, parse_json, writable
from sleep_jax.runtime.progress import printable

if TYPE_CHECKING:
    import tensorboardX

RESERVED = ("phase", "step", "time")
MEASURED = "time/"
SECONDS_BETWEEN_UPLOADS = 30.0


class MetricWriter:
    """Appends the metrics of a run to `workdir`, phase by phase; a context manager.

    Opening an existing workdir continues its files. A phase that starts over calls
    `restart(phase)` first, so that no step is recorded twice.

    Args:
      workdir: of the run.
      is_writer: whether this process writes; of several processes one does.
    """

    def __init__(self, workdir: str | os.PathLike[str], is_writer: bool = True):
        self._is_writer = is_writer
        self._path = metrics_path(workdir)
        self._events = epath.Path(workdir) / "tensorboard"
        self._writers: dict[str, tensorboardX.SummaryWriter] = {}
        if not is_writer:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(self._path)
        self._lines = _lines(self._path)

    def scalars(self, phase: str, step: int, values: Mapping[str, Any]) -> None:
        """Records scalars (Python, NumPy or JAX) measured at `step` of `phase`.

        Raises:
          ValueError: a value has the name of one of the fields that every line has.
        """
        figures = {name: float(value) for name, value in values.items()}
        if not self._is_writer:
            return
        now = self._append(phase, step, {name: _as_json(x) for name, x in figures.items()})
        for name, figure in figures.items():
            if math.isfinite(figure):  # TensorBoard shows a gap
                self._writer(phase).add_scalar(name, figure, step, walltime=now)

    def text(self, phase: str, step: int, tag: str, markdown: str) -> None:
        """Records a text (an answer, a dream), which TensorBoard shows as markdown."""
        if not self._is_writer:
            return
        now = self._append(phase, step, {tag: markdown})
        self._writer(phase).add_text(tag, printable(markdown), step, walltime=now)

    def histogram(self, phase: str, step: int, tag: str, values: Sequence[float]) -> None:
        """Records the distribution of numbers; the line has all of them."""
        figures = [float(value) for value in values]
        if not self._is_writer:
            return
        now = self._append(phase, step, {tag: [_as_json(x) for x in figures]})
        if finite := [x for x in figures if math.isfinite(x)]:
            self._writer(phase).add_histogram(tag, np.asarray(finite), step, walltime=now)

    def restart(self, phase: str) -> None:
        """Removes what earlier attempts recorded of `phase`; other phases stay.

        The file is replaced atomically.
        """
        if not self._is_writer:
            return
        if writer := self._writers.pop(phase, None):
            writer.close()
        self._lines.close()
        kept = [line for line in read_metrics(self._path.parent) if line["phase"] != phase]
        replacement = self._path.with_suffix(".jsonl.new")
        replacement.write_text("".join(_line(record) for record in kept), encoding="utf-8")
        replacement.replace(self._path)
        self._lines = _lines(self._path)
        self._events_of(phase).rmtree(missing_ok=True)

    def close(self) -> None:
        """Flushes and closes every file; calling it twice is harmless."""
        if self._is_writer:
            self._lines.close()
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _append(self, phase: str, step: int, values: Mapping[str, Any]) -> float:
        """Writes and flushes one line; returns its time in seconds since the epoch."""
        if clash := [name for name in values if name in RESERVED]:
            raise ValueError(f"a metric cannot be named {clash[0]!r}: every line has that field")
        now = round(time.time(), 3)
        self._lines.write(_line({"phase": phase, "step": int(step), "time": now, **values}))
        self._lines.flush()
        return now

    def _events_of(self, phase: str) -> epath.Path:
        if not phase or not all(part.strip(".") for part in phase.split("/")):
            raise ValueError(f"phase={phase!r} cannot name a folder; use a word such as 'learn'")
        return self._events / phase

    def _writer(self, phase: str) -> "tensorboardX.SummaryWriter":
        import tensorboardX  # slow to import, and not needed to read

        if phase not in self._writers:
            folder = str(self._events_of(phase))
            self._writers[phase] = tensorboardX.SummaryWriter(folder, flush_secs=10)
        return self._writers[phase]


class _Remote:
    """A file at an address, which cannot be appended to: it is written as a whole."""

    def __init__(self, path: epath.Path):
        self._path = path
        self._text = path.read_text(encoding="utf-8") if path.exists() else ""
        self._uploaded = time.monotonic()

    def write(self, line: str) -> None:
        self._text += line

    def flush(self) -> None:
        if time.monotonic() - self._uploaded >= SECONDS_BETWEEN_UPLOADS:
            self.close()

    def close(self) -> None:
        self._path.write_text(self._text, encoding="utf-8")
        self._uploaded = time.monotonic()


def _lines(path: epath.Path):
    """The file of lines, open for appending."""
    return _Remote(path) if is_remote(path) else path.open("a", encoding="utf-8")


def metrics_path(workdir: str | os.PathLike[str]) -> epath.Path:
    """Path of the JSON lines of a run."""
    return epath.Path(workdir) / "metrics.jsonl"


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The recorded lines, oldest first; [] if nothing was recorded.

    Non-finite numbers are the strings "nan", "inf" and "-inf". An incomplete last line (the run was
    killed while writing it) is left out.

    Raises:
      ValueError: a line is damaged; names it.
    """
    path = metrics_path(workdir)
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            records.append(_record(line))
        except ValueError as error:
            reason = str(error).partition(";")[0]
            raise ValueError(
                f"{path}, line {number} is damaged: {line[:40]!r} ({reason}); remove it"
            ) from None
    return records


def _record(line: bytes) -> dict[str, Any]:
    """A checked line: its three fields, and numbers, texts or lists of them."""
    read = as_object(parse_json(line, "it"), "it")
    fixed = {"phase": read.text("phase"), "step": read.whole("step")}
    fixed["time"] = read.number("time", 0, math.inf)
    for name, value in read.items():
        for entry in value if isinstance(value, list) else (value,):
            if not isinstance(entry, str | int | float):
                read.refuse(name, "a number, a text or a list of them")
            if isinstance(entry, str):
                as_text(entry, name)
    return dict(read) | fixed


def figure_of(line: Mapping[str, Any], name: str) -> float | None:
    """A number of a recorded line by its name; None if there is none, or it is a text.

    >>> figure_of({"kl": "inf"}, "kl"), figure_of({"kl": "words"}, "kl")
    (inf, None)
    """
    value = line.get(name)
    if isinstance(value, str) and value not in ("nan", "inf", "-inf"):
        return None
    try:
        return float(value)
    except (TypeError, OverflowError):
        return None


def _line(record: Mapping[str, Any]) -> str:
    return writable(json.dumps(record, ensure_ascii=False, allow_nan=False)) + "\n"


def _as_json(figure: float) -> float | str:
    return figure if math.isfinite(figure) else str(figure)


def _drop_torn_line(path: epath.Path) -> None:
    """Removes an incomplete last line of a killed run, so that the next line starts anew."""
    if is_remote(path) or not path.exists():
        return
    if not (content := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
