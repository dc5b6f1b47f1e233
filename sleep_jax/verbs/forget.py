"""`forget RUN --day N`: the slot of a day is zeroed, and what is known then is measured."""

import argparse
import dataclasses
import os
import time
from collections.abc import Sequence
from typing import Any

from ml_collections import FrozenConfigDict

from sleep_jax.config import read, restored
from sleep_jax.evals.kept import KeptAnswers, kept_line
from sleep_jax.experiment import Experiment
from sleep_jax.inspect.run import Run
from sleep_jax.lifecycle import init_run_state
from sleep_jax.phases.day_slots import (
    days_of,
    phase_before_day,
    shortened,
    text_of,
    titles_of_day,
)
from sleep_jax.phases.forgetting import (
    Forgetting,
    forget_on_record,
    plan_forgetting,
    with_zeroed_slots,
)
from sleep_jax.phases.hours import FORGET, ends_day, nights_over
from sleep_jax.phases.own_questions import kept_answers
from sleep_jax.phases.run_state import RunState
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.runtime.compiled_programs import keep_compiled_programs
from sleep_jax.runtime.progress import phase_progress, say, table
from sleep_jax.verbs.saved_run import finished_run, load_saved_run

EPILOG = """\
The newest day is taken back: the memory is again as it was before it, bit for bit. The slot of an
earlier day is zeroed; later days stay as they were learnt beside it. Days that share a slot can
only be forgotten together. What is forgotten is the model's memory: the documents, and the record
of what was asked about them, stay on disk.

examples:
  python -m sleep_jax forget RUN --day=3
  python -m sleep_jax forget RUN --day=1,2
  python -m sleep_jax forget RUN --day=1 --dry_run
  python -m sleep_jax forget RUN --undo
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds which days, and whether it is undone."""
    parser.description = "Lets a run forget days, as a new checkpoint that can be undone."
    parser.epilog = EPILOG
    parser.add_argument(
        "--day", "--days", metavar="N", help="which day, from 1, or several: 1,2", default=""
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="only say what it and the others would still know"
    )
    parser.add_argument("--undo", action="store_true", help="take the last `forget` back")


def run(arguments: argparse.Namespace) -> None:
    """Forgets the days, or undoes it.

    Raises:
      ValueError, OSError: as `forget` and `undo`; both or neither were asked for.
    """
    if arguments.undo == bool(arguments.day):
        raise ValueError("give either --day=N or --undo")
    if arguments.undo:
        undo(arguments.run)
    else:
        forget(arguments.run, arguments.day, arguments.dry_run)


def undo(workdir: str) -> None:
    """Removes the last checkpoint of a run, which has to be of a `forget`.

    Raises:
      ValueError: it is of another phase.
    """
    last = Run(workdir).latest
    if last.phase.partition("-")[0] != FORGET:
        raise ValueError(
            f"{workdir}: nothing to undo, the last phase is {last.phase}; days that were forgotten "
            "before it stay so"
        )
    facts = last.record["run"]["phases"][last.phase]
    days = [d for name in ("taken_back", "zeroed") for d in days_of(facts.get(name, ""))]
    with PhaseCheckpoints(os.path.join(workdir, "checkpoints")) as saved:
        saved.remove(last.index)
    words = f"days {text_of(days)} are" if len(days) > 1 else f"day {text_of(days)} is"
    say(f"{words} no longer forgotten: the run is again as after {Run(workdir).latest.phase}")


def forget(workdir: str, days: str, is_dry_run: bool = False) -> None:
    """Forgets days of a run: measures, writes a checkpoint and says what is known before and after.

    Args:
      workdir: of the run.
      days: numbers from 1, such as `1,2`.
      is_dry_run: nothing is written.

    Raises:
      ValueError: these days cannot be forgotten, or a day is under way; says what can be done.
      FileNotFoundError: there is no such run.
    """
    start = time.perf_counter()
    numbers = _numbers(days)
    keep_compiled_programs()
    last = finished_run(workdir).latest
    kind = last.phase.partition("-")[0]
    if not (ends_day(last.phase) or kind == FORGET):
        raise ValueError(
            f"{workdir}: a day is under way (the last phase is {last.phase}); let it end, then "
            "forget"
        )
    saved = load_saved_run(workdir)
    capacities = [level.slots for level in saved.settings.memory.levels]
    how = plan_forgetting(saved.record, capacities, numbers)
    experiment, is_at_hand = saved.experiment(), True
    with PhaseCheckpoints(os.path.join(workdir, "checkpoints")) as checkpoints:
        before = _restored(checkpoints, last.index, experiment)
        base, config = before, last.record["config"]
        if how.taken_back:
            earlier = _before_day(checkpoints, Run(workdir), saved.record, how, experiment)
            if is_at_hand := earlier is not None:
                base, slots = earlier
                config = {**config, "memory": {**config["memory"], "slots": slots}}
            else:
                how = plan_forgetting(saved.record, capacities, numbers, may_take_back=False)
        after = _forgotten(base, how)
        known = _measured(experiment, saved.record, (before, after))
        say(*_outcome(numbers, how, saved.record, is_at_hand))
        _show(known, numbers)
        if is_dry_run:
            say("nothing was written")
            return
        label = _label(saved.record)
        facts: dict[str, Any] = {"tokens": 0, "seconds": time.perf_counter() - start}
        if known[0]:
            facts |= {"kept_before": kept_line(known[0]), "kept_after": kept_line(known[1])}
        record = forget_on_record(saved.record, numbers, how, label, **facts)
        record = {**last.record, "config": config, "run": record}
        checkpoints.save(last.index + 1, label, state=after.arrays, record=record)
    say(
        f"written: {label}, checkpoint {last.index + 1}; `forget {workdir} --undo` takes it back, "
        "and the report has it when launch.py is run again"
    )


def _numbers(days: str) -> list[int]:
    """Indices of days that are given as `1,2`."""
    try:
        numbers = [int(word) - 1 for word in days.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if not numbers:
        raise ValueError(f"--day={days}: give numbers from 1, such as 2 or 1,2")
    return sorted(set(numbers))


def _restored(checkpoints: PhaseCheckpoints, index: int, experiment: Experiment) -> RunState:
    """The state of a checkpoint."""
    arrays, record = checkpoints.restore(index, init_run_state(experiment).arrays)
    return RunState(**arrays, record=record["run"])


def _before_day(
    checkpoints: PhaseCheckpoints, run: Run, record, how: Forgetting, experiment: Experiment
) -> tuple[RunState, list[int]] | None:
    """The state before the first day that is taken back, and the slots that its levels had; None
    where its checkpoint was removed."""
    label = phase_before_day(record, min(how.taken_back))
    found = next((x for x in run.checkpoints if label in (None, x.phase)), None)
    if found is None:
        return None
    config = FrozenConfigDict(restored(found.record["config"], str(found.folder)))
    cfg = experiment.cfg.replace(memory=read(config).memory)
    then = dataclasses.replace(experiment, config=config, cfg=cfg)
    state = init_run_state(then) if label is None else _restored(checkpoints, found.index, then)
    return state, found.record["config"]["memory"]["slots"]


def _forgotten(state: RunState, how: Forgetting) -> RunState:
    """The state with slots zeroed, also in what the last night began with."""
    places = how.zeroed.values()
    arrays = {name: with_zeroed_slots(memory, places) for name, memory in state.arrays.items()}
    return dataclasses.replace(state, **arrays)


def _measured(
    experiment: Experiment, record, states: Sequence[RunState]
) -> list[list[KeptAnswers]]:
    """What each of these states knows of each day (`kept_answers`); empty lists where no own
    question was asked."""
    known = []
    with phase_progress("own questions", len(states), "model") as bar:
        for state in states:
            asked = dataclasses.replace(state, record=record)
            variables = asked.current.variables(experiment.params)
            known.append(kept_answers(experiment, asked, variables, nights_over(record)))
            bar.advance(1)
    return known if any(x.asked for x in known[0]) else [[], []]


def _outcome(numbers, how: Forgetting, record, is_at_hand: bool) -> list[str]:
    """What has happened to each day, in words."""
    lines = []
    for day in numbers:
        titles = shortened(titles_of_day(record, day))
        name = f"day {day + 1}" + (f" ({titles})" if titles else "")
        if day in how.taken_back:
            before = phase_before_day(record, min(how.taken_back))
            when = f"after {before}" if before else "before its first night"
            lines.append(f"{name}: taken back; the memory is as {when}, bit for bit")
        else:
            lines.append(f"{name}: {how.zeroed[day]} is zeroed")
    if not is_at_hand:
        lines.append(
            "the memory before the newest day is not at hand (its checkpoint was removed, as "
            "checkpoint.max_to_keep says), so its slot is zeroed as that of an earlier day"
        )
    return lines


def _show(known: list[list[KeptAnswers]], numbers: Sequence[int]) -> None:
    """Prints what is known of each day before and after."""
    before, after = known
    if not before:
        say("no own question was asked on any day: what is known cannot be measured")
        return
    table(
        "Own questions right without the documents, of those right with them",
        ("", "before", "after", ""),
        [
            (f"day {day + 1}", str(x), str(y), "forgotten" if day in numbers else "")
            for day, (x, y) in enumerate(zip(before, after))
            if x.asked
        ],
    )


def _label(record) -> str:
    """`forget`, numbered from the second time on."""
    count = sum(label.partition("-")[0] == FORGET for label in record["phases"])
    return f"{FORGET}-{count + 1}" if count else FORGET
