"""Scores of a model on tasks of lm-evaluation-harness: those of this project (`local`), the
user's own, and those of lm_eval, whose data sets it downloads.

lm_eval is imported when it is needed, which takes seconds.
"""

import contextlib
import dataclasses
import importlib.util
import logging
import math
import os
import pathlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sleep_jax.similar_name import similar_name

if TYPE_CHECKING:
    from sleep_jax.tasks.harness import HarnessModel

FOLDER = pathlib.Path(__file__).parent / "local"
LOCAL = "sleep_jax"  # tag of the tasks of this project
TEMPLATE = ("auto", "always", "never")  # when prompts are chats
SEED = 1234  # of few-shot examples, as lm_eval's
RESAMPLES = 1000  # for standard errors that need a bootstrap


@dataclasses.dataclass(frozen=True)
class TaskScore:
    """A figure of a task.

    Attributes:
      task: its name.
      metric: of the figure, with the filter of the replies where it is not `none`.
      value: the figure.
      stderr: its standard error; None where lm_eval has none.
      items: that were asked.
      is_higher_better: whether a rise is good.
      is_chat: whether prompts were chats.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    items: int
    is_higher_better: bool
    is_chat: bool


def side_by_side(before: Sequence[TaskScore], after: Sequence[TaskScore]) -> list[dict[str, Any]]:
    """The scores of two models on the same tasks, as JSON has them: the fields of `TaskScore`, with
    `before` and `after` in place of `value` and the standard error after.
    """
    rows = []
    for one, other in zip(before, after, strict=True):
        row = dataclasses.asdict(other)
        rows.append(row | {"before": one.value, "after": row.pop("value")})
    return rows


def falls(before: Sequence[TaskScore], after: Sequence[TaskScore]) -> dict[str, float]:
    """How far the main score of each task, its first one, has fallen; where less is better, how far
    it has risen, as a share.
    """
    fallen = {}
    for one, other in zip(before, after, strict=True):
        change = one.value - other.value
        if not one.is_higher_better:
            change = -change / one.value if one.value else math.inf
        fallen.setdefault(one.task, change)
    return fallen


def require_lm_eval() -> None:
    """Raises a ValueError that says how to install lm_eval, where it is missing."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError(
            "tasks are measured by lm-evaluation-harness: pip install 'sleep_jax[eval]' brings it"
        )


def local_tasks() -> dict[str, str]:
    """The tasks of this project: what each is about, by name."""
    require_lm_eval()
    import yaml  # comes with lm_eval

    texts = [path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.yaml"))]
    configs = [yaml.load(text, Loader=yaml.BaseLoader) for text in texts]  # functions as strings
    return {config["task"]: config["metadata"]["about"] for config in configs}


class Tasks:
    """Tasks to measure.

    Attributes:
      names: as they were given, each of a task, group, tag or YAML file.
    """

    def __init__(
        self,
        names: Sequence[str],
        record: Mapping[str, Any] | None = None,
        include: str | os.PathLike[str] | None = None,
    ):
        """Finds tasks.

        Args:
          names: of tasks, groups or tags, or YAML files.
          record: of the run that tasks are about (`phases.run_state.RunState.record`).
          include: a folder of further tasks.

        Raises:
          ValueError: lm_eval is missing; or a name is unknown.
        """
        require_lm_eval()
        local = local_tasks()
        names = [x for name in names for x in (local if name == LOCAL else [name])]
        self.names = tuple(dict.fromkeys(names))
        folders = [FOLDER, *([pathlib.Path(include).expanduser()] if include else [])]
        for folder in folders:
            if not folder.is_dir():
                raise ValueError(f"--include_path={folder}: no such folder")
        metadata = {} if record is None else {"record": record}
        others = [name for name in self.names if not pathlib.Path(name).is_file()]
        self._manager = _manager(folders, metadata, is_all=False)
        if any(name not in self._manager.task_index for name in others):
            self._manager = _manager(folders, metadata, is_all=True)
        known = self._manager.all_tasks
        if unknown := [name for name in others if name not in known]:
            near = similar_name(unknown[0], local) or similar_name(unknown[0], known)
            nearest = f"the nearest is {near}; " if near else ""
            raise ValueError(
                f"task {unknown[0]!r} is unknown; {nearest}`--tasks list` names the local ones, "
                "`lm-eval ls tasks` those of lm_eval"
            )

    def measure(
        self,
        model: "HarnessModel",
        *,
        limit: int = 0,
        template: str = "auto",
        fewshot: int | None = None,
        samples: list[dict[str, Any]] | None = None,
    ) -> list[TaskScore]:
        """The scores of a model, the main metric of each task first.

        Args:
          model: to ask.
          limit: items of each task, at most, the first ones; 0: all.
          template: when prompts are chats, in the model's template: `auto`: where a task generates
            text or asks for it (`metadata.chat`), and the model has one.
          fewshot: examples before each item; None: as the task says.
          samples: every item with what was asked and answered is appended to it; None: not kept.

        Raises:
          ValueError: `template` is none of these, or `always` and the model has none; a task is ill
            defined.
        """
        if template not in TEMPLATE:
            raise ValueError(f"--template={template!r}; give one of {', '.join(TEMPLATE)}")
        if template == "always" and not model.has_template:
            raise ValueError("--template=always, but the model has no chat template; give never")
        scores = []
        for name in self.names:
            with _quietly():
                loaded = _loaded(self._manager, name, fewshot)
            is_chat = model.has_template and (
                template == "always" or (template == "auto" and _is_chat(loaded["tasks"]))
            )
            model.task = name
            results = _results(model, loaded, limit, is_chat, samples is not None)
            scores += _scores(results, loaded["tasks"], is_chat)
            for task, items in (results.get("samples") or {}).items():
                samples += [{"task": task, **_sample(item)} for item in items]
        return scores


def _manager(folders: Sequence[pathlib.Path], metadata: dict, is_all: bool):
    from lm_eval.tasks import TaskManager

    with _quietly():
        return TaskManager(
            include_path=[*folders], include_defaults=is_all, metadata=metadata or None
        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the log of lm_eval, but for errors, and without its processes."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    os.environ["DISABLE_MULTIPROC"] = "1"  # a process that computes should not be forked
    try:
        yield
    finally:
        log.setLevel(level)


def _loaded(manager, name: str, fewshot: int | None) -> dict[str, Any]:
    """What a name stands for, as lm_eval loads it."""
    try:
        loaded = manager.load([name])
    except (ConnectionError, OSError) as error:
        raise ValueError(f"task {name}: its data set cannot be read: {error}") from error
    for task in loaded["tasks"].values():
        given = task.get_config("num_fewshot")
        if fewshot is not None and given != 0:
            task.set_config("num_fewshot", fewshot)
        elif given is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(seed=SEED)
    return loaded


def _is_chat(tasks: Mapping[str, Any]) -> bool:
    """Whether prompts of these tasks are chats, if the model has a template."""
    return all(
        task.OUTPUT_TYPE == "generate_until" or (task.config.metadata or {}).get("chat")
        for task in tasks.values()
    )


def _results(model, loaded, limit: int, is_chat: bool, has_samples: bool) -> dict[str, Any]:
    from lm_eval import evaluator

    random.seed(0)
    np.random.seed(SEED)
    with _quietly():
        return evaluator.evaluate(
            model,
            loaded,
            limit=limit or None,
            bootstrap_iters=RESAMPLES,
            log_samples=has_samples,
            apply_chat_template=is_chat,
            fewshot_as_multiturn=is_chat,
        )


def _scores(results: Mapping[str, Any], tasks: Mapping, is_chat: bool) -> list[TaskScore]:
    """The figures of each task, its main metric first: the first of its list."""
    scores = []
    for name, figures in results["results"].items():
        if name not in tasks and name not in results.get("groups", {}):
            continue  # a group that only lists its tasks
        metrics = tasks[name].aggregation() if name in tasks else ()
        found, place = [], {metric: number for number, metric in enumerate(metrics)}
        for key, value in figures.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or isinstance(value, str):
                continue
            stderr = figures.get(f"{metric}_stderr,{filtered}")
            score = TaskScore(
                task=name,
                metric=metric if filtered == "none" else f"{metric}, {filtered}",
                value=float(value),
                stderr=None if isinstance(stderr, str | None) else float(stderr),
                items=int(figures["sample_len"]),
                is_higher_better=bool(results["higher_is_better"].get(name, {}).get(metric, True)),
                is_chat=is_chat,
            )
            found.append((place.get(metric, len(place)), score))
        scores += [score for _, score in sorted(found, key=lambda x: x[0])]
    return scores


def _sample(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item as lm_eval logs it, without what can be found in it again."""
    kept = {name: item[name] for name in ("doc_id", "doc", "target", "arguments", "resps")}
    return kept | {name: item[name] for name in item["metrics"]}
