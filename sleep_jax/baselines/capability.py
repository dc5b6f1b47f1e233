"""What a model can still do besides what it was taught: three local tasks (`sleep_jax/tasks/local`)
that every comparison measures before the first night and after the last one.

    anchors           general texts, perplexity a byte
    instructions      that a program can check, share followed
    common_knowledge  multiple choice, share right
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sleep_jax.baselines.model import Model
from sleep_jax.fields import read_json
from sleep_jax.tasks.task_scores import Tasks

TASKS = {
    "anchors": "anchor texts, perplexity a byte",
    "instructions": "instructions followed",
    "common_knowledge": "multiple choice",
}
LIMIT = 48  # of 102 instructions; the other tasks have fewer items
Capability = dict[str, Any]


def capability(model: Model, limit: int = LIMIT, name: str = "") -> Capability:
    """What a model can do.

    Args:
      model: with its chat template.
      limit: items of each task, at most, the first ones; the kinds of instructions are mixed.
      name: of the model, for progress.

    Returns:
      `limit`; `scores` and `items` by task: its figure, and how many items it is of.

    Raises:
      ValueError: lm_eval is missing.
    """
    tasks = Tasks([*TASKS])  # says what is missing before lm_eval is imported
    from sleep_jax.tasks.harness import HarnessModel

    asked = HarnessModel(model.cfg, model.variables, model.tokenizer, name=name)
    first: dict[str, Any] = {}
    for score in tasks.measure(asked, limit=limit):
        first.setdefault(score.task, score)  # the main metric
    return {
        "limit": limit,
        "scores": {task: first[task].value for task in TASKS},
        "items": {task: first[task].items for task in TASKS},
    }


def kept_capability(
    path: pathlib.Path, model: Model, limit: int = LIMIT, name: str = ""
) -> Capability:
    """`capability`, as a file has it or, where there is none of this limit, measured now and kept
    there.

    Args:
      path: of the file.
      model, limit, name: as for `capability`.
    """
    if path.exists() and (kept := read_json(path))["limit"] == limit:
        return kept
    measured = capability(model, limit, name or path.stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(measured))
    draft.replace(path)
    return measured


def before_and_after(
    folder: pathlib.Path, base: Model | None, model: Model | None, name: str, limit: int = LIMIT
) -> dict[str, dict[str, Capability]]:
    """What the figures of a run have about it: {"capability": {"before": ..., "after": ...}}.

    Args:
      folder: keeps what was measured, `before` once for all runs.
      base: the model before the first night; None: not measured.
      model: after the last one; None: the run has none.
      name: of the arm and its seed.
      limit: of `capability`; 0: nothing is measured, and nothing is returned.
    """
    models = {"before": ("before", base), "after": (name, model)}
    measured = {
        when: kept_capability(folder / f"{file}.json", asked, limit)
        for when, (file, asked) in models.items()
        if limit and asked is not None
    }
    return {"capability": measured} if measured else {}


Run = Mapping[str, Any]
SHOWN = ("instructions", "common_knowledge")


def capability_heads(runs: Sequence[Run], shown: Sequence[str] = SHOWN) -> list[str]:
    """Titles of the columns of a table, with the number of items; none where nothing was measured.

    Args:
      runs: of all arms. Where it was measured, one has `capability`: {"before": `Capability`,
        "after": the same}, or one of the two.
      shown: tasks.
    """
    measured = [x for run in runs for x in run.get("capability", {}).values()]
    if not measured:
        return []
    return [f"{TASKS[task]} (of {measured[0]['items'][task]})" for task in shown]


def capability_cells(runs: Sequence[Run], shown: Sequence[str] = SHOWN) -> list[str]:
    """The columns' cells of an arm: before -> after, mean and standard deviation over seeds.

    Args:
      runs: of the arm, one a seed; those without `capability` are left out.
      shown: tasks.
    """
    measured = [run["capability"] for run in runs if "capability" in run]
    cells = []
    for task in shown:
        times = []
        for when in ("before", "after"):
            scores = [x[when]["scores"][task] for x in measured if when in x]
            times += [_spread(scores, task)] if scores else []
        cells.append(" -> ".join(times) + (" %" if times and task != "anchors" else ""))
    return cells


def _spread(scores: Sequence[float], task: str) -> str:
    factor, form = (1.0, ".2f") if task == "anchors" else (100.0, ".0f")
    mean = format(factor * np.mean(scores), form)
    if len({*scores}) == 1:
        return mean
    return f"{mean} ± {format(factor * np.std(scores, ddof=1), form)}"
