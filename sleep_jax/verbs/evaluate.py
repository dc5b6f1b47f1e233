"""`evaluate RUN --tasks NAME,...`: scores of the model of a run, by lm-evaluation-harness."""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp

from sleep_jax.report.run_record import metric_title
from sleep_jax.runtime.compiled_programs import keep_compiled_programs
from sleep_jax.runtime.progress import say, table
from sleep_jax.tasks.task_scores import (
    LOCAL,
    TEMPLATE,
    Tasks,
    TaskScore,
    local_tasks,
    require_lm_eval,
)
from sleep_jax.verbs.saved_run import load_saved_run
from sleep_jax.verbs.speaking import showing

BEFORE, AFTER = "before", "after"  # the model without its nights, and with them
EPILOG = """\
examples:
  python -m sleep_jax evaluate RUN --tasks list
  python -m sleep_jax evaluate RUN --tasks instructions,common_knowledge --before
  python -m sleep_jax evaluate RUN --tasks sleep_jax --limit 20
  python -m sleep_jax evaluate RUN --tasks arc_easy,mmlu --num_fewshot 5
  python -m sleep_jax evaluate RUN --tasks mine --include_path my_tasks/ --samples mine.jsonl
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the tasks, and how they are measured."""
    parser.description = (
        "Measures the model of a run on tasks of lm-evaluation-harness: local ones that ship with "
        "sleep_jax (`--tasks list`), your own, and those of lm_eval, whose data it downloads."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "--tasks",
        required=True,
        metavar="NAME,...",
        help=f"tasks, groups or YAML files; {LOCAL}: all local tasks; list: says which there are",
    )
    parser.add_argument(
        "--before",
        action="store_true",
        help="beside it, the model before its first night",
    )
    parser.add_argument("--include_path", metavar="FOLDER", help="of your own tasks, YAML files")
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N", help="the first N items of each task [all]"
    )
    parser.add_argument(
        "--num_fewshot", type=int, metavar="N", help="examples before each item [as the task says]"
    )
    parser.add_argument(
        "--template",
        choices=TEMPLATE,
        default="auto",
        help="when prompts are chats in the model's template; auto: where a task generates text, "
        "and not where it compares likelihoods [%(default)s]",
    )
    parser.add_argument(
        "--batch", type=int, default=32, metavar="N", help="requests at a time [%(default)s]"
    )
    parser.add_argument(
        "--phase", default="-1", help="the model after this phase, by name or index [the last one]"
    )
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    parser.add_argument(
        "--samples", metavar="FILE", help="write every item with its reply, one JSON a line"
    )


def run(arguments: argparse.Namespace) -> None:
    """Measures, and prints a table.

    Raises:
      ValueError, OSError: lm_eval is missing; a task or a number is wrong; or as `load_saved_run`.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")  # the bars of lm_eval, beside those of this project
    require_lm_eval()
    if arguments.tasks == "list":
        table("Local tasks", ("task", "about"), [*local_tasks().items()])
        return
    for name, least in (("limit", 0), ("batch", 1), ("num_fewshot", 0)):
        if (value := getattr(arguments, name)) is not None and value < least:
            raise ValueError(f"--{name}={value}; give {least} or more")
    with contextlib.redirect_stdout(sys.stderr) if arguments.json else contextlib.nullcontext():
        scores, samples = _measured(arguments)
    if arguments.samples:
        with pathlib.Path(arguments.samples).expanduser().open("w", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(sample, default=str)}\n" for sample in samples)
    if arguments.json:
        as_json = {of: [dataclasses.asdict(x) for x in found] for of, found in scores.items()}
        print(json.dumps(as_json, indent=1))
        return
    _show(scores)
    if arguments.samples:
        say(f"items and replies: {arguments.samples}")


def _measured(
    arguments: argparse.Namespace,
) -> tuple[dict[str, list[TaskScore]], list[dict[str, Any]]]:
    """The scores of each model, and all items."""
    from sleep_jax.tasks.harness import HarnessModel, thought_tokens

    keep_compiled_programs()
    names = [name.strip() for name in arguments.tasks.split(",") if name.strip()]
    Tasks(names, include=arguments.include_path)  # a mistake is reported before a model is loaded
    with showing("loading the model"):
        saved = load_saved_run(arguments.run, arguments.phase)
        params = jax.tree.map(jnp.asarray, saved.params)
    tasks = Tasks(names, saved.record, arguments.include_path)
    states = {BEFORE: saved.state.without_memory()} if arguments.before else {}
    states[AFTER] = saved.state
    scores, samples = {}, []
    for of, state in states.items():
        model = HarnessModel(
            saved.cfg,
            state.variables(params),
            saved.tokenizer,
            name=f"{of} sleep" if arguments.before else "",
            batch=arguments.batch,
            thought_tokens=thought_tokens(saved.settings),
        )
        items: list[dict[str, Any]] | None = [] if arguments.samples else None
        scores[of] = tasks.measure(
            model,
            limit=arguments.limit,
            template=arguments.template,
            fewshot=arguments.num_fewshot,
            samples=items,
        )
        samples += [{"of": of, **item} for item in items or ()]
    return scores, samples


def _show(scores: dict[str, list[TaskScore]]) -> None:
    """Prints the scores, of one model or of both side by side."""
    rows = []
    for before, after in itertools.zip_longest(scores.get(BEFORE, ()), scores[AFTER]):
        values = [before.value, after.value] if before else [after.value]
        prompt = "chat" if after.is_chat else "text"
        name = metric_title(after.metric, after.is_higher_better)
        rows.append((after.task, prompt, name, *values, after.stderr, after.items))
    values = (BEFORE, AFTER) if BEFORE in scores else ("score",)
    table("Scores", ("task", "prompt", "metric", *values, "stderr", "n"), rows)
