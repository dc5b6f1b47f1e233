"""`inspect RUN [QUESTION ...]`: what a run did."""

import argparse
import dataclasses
import json
import sys
from typing import Any

import numpy as np

from sleep_jax.inspect.memory import STATES, changes, slots
from sleep_jax.inspect.run import Run, difference
from sleep_jax.inspect.tables import show

QUESTIONS = {
    "all": ("", "state of the run, and the next five questions"),
    "timeline": ("", "days, nights and phases, with the slots in use after each"),
    "slots": ("", "slots in use by level, with their norms"),
    "curves": ("", "divergence and reward over the steps"),
    "scores": ("", "shares of right answers by stage, and by day after each night"),
    "samples": ("", "questions with the replies before and after the night"),
    "changes": ("BEFORE AFTER", "what differs between two phases, leaf by leaf"),
    "config": ("", "the settings"),
    "diff": ("OTHER_RUN", "the settings in which another run differs"),
    "leaves": ("", "names, shapes and types of what a checkpoint holds"),
    "restore": ("NAME FILE.npz", "a part of a checkpoint into a file; with --slot, of one slot"),
    "verify": ("", "every checkpoint against its digests; exit status 1 if one is damaged"),
}
OVERVIEW = ("timeline", "slots", "curves", "scores", "samples")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the question and what it needs."""
    listed = [f"  {f'{name} {more}':<24}{about}" for name, (more, about) in QUESTIONS.items()]
    parser.description = "Shows what a run did, without an accelerator and without its base model."
    parser.epilog = "\n".join(["questions:", *listed])
    parser.add_argument("question", metavar="QUESTION", nargs="?", default="all", help="[all]")
    parser.add_argument("more", metavar="...", nargs="*", help="arguments of the question")
    parser.add_argument("--phase", default="-1", help="a phase by name or index [the last one]")
    parser.add_argument("--state", default="current", choices=STATES, help="memory state [current]")
    parser.add_argument("--slot", type=int, help="for `restore`: slot of an expert bank")
    parser.add_argument("--json", action="store_true", help="print the whole answer as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Answers one question about a run.

    Raises:
      SystemExit: with status 1 where `verify` finds a damaged checkpoint.
    """
    _check(arguments)
    try:
        answers = _answers(Run(arguments.run), arguments)
    except LookupError as error:
        raise ValueError(error.args[0]) from error
    if arguments.json:
        print(_json(_plain(answers)))
    else:
        for name, answer in answers.items():
            show(name, answer)
    if any(answers.get("verify", {}).values()):
        raise SystemExit(1)


def _check(arguments: argparse.Namespace) -> None:
    """Raises ValueError for a question that does not exist, or with another number of arguments."""
    if arguments.question not in QUESTIONS:
        raise ValueError(f"no question {arguments.question!r}; choose from {', '.join(QUESTIONS)}")
    needed = QUESTIONS[arguments.question][0]
    if len(arguments.more) != len(needed.split()):
        raise ValueError(f"{arguments.question} has to be followed by {needed or 'nothing'}")


def _answers(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """The answer to a question, by part."""
    question, phase, memory = arguments.question, arguments.phase, arguments.state
    if question == "all":
        if not run.checkpoints:
            return {"state": [run.state(), *run.problems], "curves": run.curves()}
        state = {"state": [run.state(), run.headline(), *_base(run), *run.problems]}
        return state | {name: _answer(run, name, phase, memory) for name in OVERVIEW}
    if question == "changes":
        before, after = map(run.__getitem__, arguments.more)
        return {question: changes(before, after, memory)}
    if question == "diff":
        return {question: difference(run, Run(*arguments.more))}
    if question == "restore":
        return {question: _restore(run, *arguments.more, phase, arguments.slot)}
    return {question: _answer(run, question, phase, memory)}


def _base(run: Run) -> list[str]:
    return [f"{field}: {x['name']}, weights {x['weights']}" for field, x in run.base.items()]


def _answer(run: Run, question: str, phase: str, memory: str) -> Any:
    """The answer to a question without further arguments."""
    if question == "slots":
        return slots(run[phase], memory)
    if question == "scores":
        return {
            "headline": run.headline(),
            "stages": run.scores(),
            "recall": run.recall(),
            "kept": run.kept(),
            "tasks": run.tasks(),
        }
    if question == "leaves":
        return list(run[phase].leaves().values())
    if question == "verify":
        return {str(x.folder): x.problem(is_thorough=True) for x in run.all_checkpoints}
    return run.config if question == "config" else getattr(run, question)()


def _restore(run: Run, name: str, file: str, phase: str, slot: int | None) -> list[str]:
    checkpoint = run[phase]
    arrays = {leaf: checkpoint.read(leaf, slot) for leaf in checkpoint.leaves(name)}
    np.savez(file, **arrays)
    return [f"{leaf} {x.dtype}{list(x.shape)} -> {file}" for leaf, x in arrays.items()]


def _json(answers: Any) -> str:
    """JSON text; with escapes for characters that stdout cannot encode."""
    text = json.dumps(answers, ensure_ascii=False, indent=1)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return json.dumps(answers, indent=1)
    return text


def _plain(value: Any) -> Any:
    """A value that JSON can hold; NaN and infinity become null."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {str(name): _plain(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not np.isfinite(value) else value
