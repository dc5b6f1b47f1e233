"""The items of the tasks, as lm_eval takes them: {"test": data set}. Nothing is downloaded.

A task about a run is given its record by `sleep_jax.tasks.task_scores`, or names its workdir in
lm_eval's own command line: `--model_args run=WORKDIR`, or `--metadata '{"run": "WORKDIR"}'`.
"""

import functools
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from sleep_jax.data import json_lines
from sleep_jax.data.documents import read_anchors
from sleep_jax.runtime.checkpoints import last_record

Record = Mapping[str, Any]
Items = list[dict[str, Any]]


def as_data_set(items: Items):
    """The items as lm_eval takes them."""
    import datasets

    return {"test": datasets.Dataset.from_list(items)}


def packaged(file: str) -> Items:
    """The items of a packaged file.

    Args:
      file: its name.

    Raises:
      ValueError: a line is wrong.
    """
    content = (importlib.resources.files(__package__) / "local" / file).read_text(encoding="utf-8")
    return [item for _, item in json_lines.objects(file, content)]


def _with_titles(items: Items, titles: set[str]) -> Items:
    return [item for item in items if any(x.startswith(item["document"]) for x in titles)]


def instructions(**given):
    """Instructions, and the checks of each."""
    return as_data_set(packaged("instructions.jsonl"))


def common_knowledge(**given):
    """Multiple choice about common knowledge."""
    return as_data_set(packaged("common_knowledge.jsonl"))


def sample_documents(record: Record | None = None, run: str | None = None, **given):
    """Multiple choice about the packaged documents; of a run, about those that it has read.

    Raises:
      ValueError: the run has read none of them.
    """
    items = packaged("sample_documents.jsonl")
    if record is not None or run is not None:
        record = _record(record, run)
        titles = {asked["document"] for day in record["days"] for asked in day.get("asked", ())}
        if not (items := _with_titles(items, titles)):
            raise ValueError("sample_documents: the run has read none of the packaged documents")
    return as_data_set(items)


def anchors(**given):
    """The anchor texts."""
    return as_data_set([{"text": text} for text in read_anchors().texts])


def anchor_chats(**given):
    """The anchor questions and the beginning of their answers."""
    questions = read_anchors().questions
    return as_data_set([{"question": q.question, "answer": q.answer} for q in questions])


def own_questions(record: Record | None = None, run: str | None = None, **given):
    """The held-out questions that the model of a run wrote itself, without those of forgotten
    days.

    Raises:
      ValueError: there is none.
    """
    days = [day for day in _record(record, run)["days"] if "forgotten" not in day]
    held_out = [q for day in days for q in day.get("study", {}).get("held_out", ())]
    items = [{"question": q["question"], "answers": [q["answer"]]} for q in held_out]
    return _some(items, "own_questions: the run has no held-out questions of its own")


def test_questions(record: Record | None = None, run: str | None = None, **given):
    """The questions that came with the documents of a run, or those that stood in for them.

    Raises:
      ValueError: there is none.
    """
    asked = [q for day in _record(record, run)["days"] for q in day.get("asked", ())]
    items = [{"question": q["question"], "answers": [*q["answers"]]} for q in asked]
    return _some(items, "test_questions: no day of the run has been evaluated yet")


def _some(items: Sequence[dict[str, Any]], problem: str):
    if not items:
        raise ValueError(problem)
    return as_data_set([*items])


def _record(record: Record | None, run: str | None) -> Record:
    """The record that is given, or that of a workdir."""
    if record is None and run is None:
        raise ValueError('this task is about a run; give --metadata \'{"run": "WORKDIR"}\'')
    return _record_of(run) if record is None else record


@functools.cache
def _record_of(workdir: str) -> Record:
    """The record of the last checkpoint of a run.

    Raises:
      ValueError: there is none.
    """
    if (saved := last_record(epath.Path(workdir) / "checkpoints")) is None:
        raise ValueError(f"{workdir}: there is no run, or none of its phases has ended")
    return saved["run"]
