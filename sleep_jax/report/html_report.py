"""The report of a run: `workdir/report.html`, one file that opens without a network.

It is made from a `summary` of the run. Every part may be missing or empty; its section is then left
out.

    {"verdict": "kept",                  # or "rolled back: ..."; `headline` says it with the scores
     "config": {...},                                                    # nested dicts
     "versions": {"jax": "0.10.2", ...},
     "scores": [{"stage": "before sleep", "questions": 0.03, "paraphrases": 0.0,
                 "anchor_perplexity": 21.3, "chat_perplexity": 9.8}, ...],   # shares in [0, 1]
     "phases": [{"phase": "wake", "tokens": 2816, "seconds": 12.5, "tokens_per_second": 225,
                 "programs": 14, "compiled": 2, "memory": 5.1, "detail": "..."}, ...],   # GiB
     "samples": [{"document": "title", "question": "...", "answer": "...", "before": "...",
                  "after": "...", "before_right": False, "after_right": True}, ...],
     "recall": [[0.5], [0.4, 0.6], ...],    # after each night: share right about each day so far
     "kept": [["5 of 6"], ["4 of 6", "6 of 6"], ...],    # likewise of the model's own questions
     "tasks": [{"night": 1, "task": "instructions", "metric": "followed", "before": 0.31,
                "after": 0.30, "stderr": 0.04, "items": 102}, ...],
     "days": [{"day": 1, "documents": "title, title", "night": "kept",
               "settings": "seeding.steps: 100 -> 50"}, ...],    # settings changed since the last
     "documents": ["title", ...],
     "notes": ["...", ...]}

Stages are in the order of measurement. A stage with the word "context" in its name is drawn as the
ceiling: the model with the document in context. Curves are drawn from `workdir/metrics.jsonl`.
"""

import importlib.resources
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from etils import epath

from sleep_jax.report import figures
from sleep_jax.report.headline import headline, share
from sleep_jax.runtime.metrics import read_metrics
from sleep_jax.runtime.progress import figure, printable
from sleep_jax.runtime.workdir import flat_config, report_path

COLUMNS = {
    "scores": (
        "stage", "questions", "chance", "paraphrases", "anchor_perplexity", "chat_perplexity",
    ),
    "phases": (
        "phase", "tokens", "seconds", "tokens_per_second", "programs", "compiled", "memory",
        "detail",
    ),
    "samples": (
        "document", "question", "answer", "before", "after", "before_right", "after_right",
    ),
    "tasks": ("night", "task", "metric", "before", "after", "stderr", "items"),
    "days": ("day", "documents", "night", "settings"),
}  # fmt: skip
COSTS = {
    "tokens_per_second": "tokens a second",
    "programs": "programs",
    "compiled": "compiled",
    "memory": "GiB at most",
}
PARTS = ("verdict", *COLUMNS, "recall", "kept", "documents", "notes", "config", "versions")


def write_report(workdir: str | os.PathLike[str], summary: Mapping[str, Any]) -> epath.Path:
    """Writes `workdir/report.html` atomically and returns its path.

    Raises:
      ValueError: `summary` has an unknown part.
    """
    if unknown := sorted(set(summary) - set(PARTS)):
        raise ValueError(f"summary has {unknown[0]!r}; a report has {', '.join(PARTS)}")
    path = report_path(workdir)
    draft = path.with_suffix(".html.new")
    draft.write_text(printable(render(summary, read_metrics(workdir))), encoding="utf-8")
    draft.replace(path)
    return path


def render(summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    """The page as a string; all text from outside is escaped."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"figure": figure, "share": share, "duration": duration}
    template = importlib.resources.files(__package__) / "report.html"
    rows = {name: _rows(summary.get(name), columns) for name, columns in COLUMNS.items()}
    documents = summary.get("documents") or []
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        **rows,
        headline=headline(rows["scores"], summary.get("verdict") or ""),
        byline=_byline(rows["phases"], documents),
        answers=figures.answers_chart(rows["scores"]),
        curves=figures.curves(metrics),
        recall=summary.get("recall") or [],
        kept=summary.get("kept") or [],
        documents=documents,
        has_changes=any(row["settings"] for row in rows["days"]),
        notes=summary.get("notes") or [],
        costs=[item for item in COSTS.items() if any(row[item[0]] for row in rows["phases"])],
        config=flat_config(summary.get("config") or {}),
        versions=summary.get("versions") or {},
        has={key for part in rows.values() for row in part for key in row if row[key] is not None},
        has_ceiling=any("context" in row["stage"] for row in rows["scores"]),
        tokens=_total(rows["phases"], "tokens"),
        seconds=_total(rows["phases"], "seconds"),
    )


def duration(seconds: float | None) -> str:
    """Seconds in words: `48 s`, `12 min 5 s`, `2 h 3 min`; "" for None."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _rows(rows: Sequence[Mapping[str, Any]] | None, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows with all columns; None for missing values."""
    return [dict.fromkeys(columns) | dict(row) for row in rows or []]


def _total(rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    known = [row[column] for row in rows if row[column] is not None]
    return sum(known) if known else None


def _byline(phases: Sequence[Mapping[str, Any]], documents: Sequence[str]) -> str:
    """E.g. `14 documents read · 212,480 tokens · 14 min 52 s`."""
    tokens, seconds = _total(phases, "tokens"), _total(phases, "seconds")
    parts = (
        f"{len(documents)} document{'' if len(documents) == 1 else 's'} read" if documents else "",
        f"{figure(tokens)} tokens" if tokens else "",
        duration(seconds),
    )
    return " · ".join(part for part in parts if part)
