"""Consolidate: a level hands what it holds to a newly unlocked slot of the next one (Knowledge
Seeding), as a transaction.

The context (level 0) is handed over by a teacher that has the day's documents in view, over what it
wrote about them in `study`; any other level by a closed-book teacher, over a replay of what was
studied and read since that level last slept.

Merge: a full level first seeds its sealed slots into one, likewise.
"""

import dataclasses
import math

import numpy as np

from sleep_jax.data.batches import bucket
from sleep_jax.errors import UnrecoverableError
from sleep_jax.experiment import Experiment
from sleep_jax.memory.slots import take_slot
from sleep_jax.models.sharding import to_host
from sleep_jax.phases.evaluate import anchor_perplexity
from sleep_jax.phases.own_questions import (
    NightQuestions,
    are_asked_at_night,
    asked_programs,
    note_open_book,
)
from sleep_jax.phases.phase import Phase
from sleep_jax.phases.rng_streams import key_of
from sleep_jax.phases.run_state import PhaseLogger, RunState, closed_book, open_book
from sleep_jax.phases.study import rehearse, rehearsing, studied
from sleep_jax.programs.abstract import AbstractRun, first_receiver
from sleep_jax.programs.calls import losses_of_texts, reading
from sleep_jax.programs.program import Program
from sleep_jax.programs.seeding import (
    batch_count,
    precomputed,
    rolled_out,
    rounds_of,
    row_tokens,
    updated,
)
from sleep_jax.run_schedule import ScheduledPhase
from sleep_jax.seeding.consolidate import run_consolidation, sum_divergence
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.router_key import REPLAY_ROWS, sum_inputs
from sleep_jax.seeding.sequences import BatchShape, Exchange, Teacher
from sleep_jax.seeding.transaction import (
    MemoryState,
    TeacherIsStudent,
    Transaction,
    begin_consolidation,
    begin_merge,
    check_capacity,
)
from sleep_jax.study import self_study
from sleep_jax.study.self_study import Study, reread, without_documents

GATED = "anchor_perplexity"  # the anchor set that a night may not lose
PROBE = 8  # sequences that measure the divergence where there are no held-out questions


def consolidate(
    experiment: Experiment, run: RunState, logger: PhaseLogger, scheduled: ScheduledPhase
) -> RunState:
    """Unlocks a slot and seeds it with what the sender holds, or leaves all as it was."""
    c, cfg, level = experiment.config, experiment.cfg, scheduled.sender + 1
    run = run.note(scheduled.label, levels=f"{scheduled.sender} -> {level}", tokens=0)
    room = check_capacity(cfg.memory, run.current.slots, level)
    if room == "skip":
        run = _after_consolidation(run, run.current)
        return run.note(scheduled.label, skipped=f"level {level} is full")
    with logger.bar(_planned(experiment), "step") as bar:
        transaction = begin_consolidation(
            cfg,
            experiment.settings.wake,
            run.current,
            scheduled.sender,
            c.seeding.protocol,
            key_of(experiment, scheduled, "transaction"),
        )
        if scheduled.sender:
            teachers = [closed_book(experiment, transaction.teacher)]
            exchanges, probe = _replay(experiment, run, scheduled, teachers[0])
        else:
            teachers = open_book(experiment, run, experiment.days[scheduled.day].documents)
            exchanges = studied(experiment, run, scheduled.day)
            probe = held_out(experiment, run, scheduled.day)
        asked = _asked(experiment, run, scheduled, teachers[0])
        if asked and not scheduled.sender:
            run = note_open_book(run, scheduled.day, asked.right)
        try:
            state, figures = _seed(
                experiment, logger, bar, scheduled, transaction, teachers, exchanges, probe, asked
            )
        except TeacherIsStudent as error:
            if not scheduled.sender:
                raise
            run = _after_consolidation(run, run.current)
            return run.note(scheduled.label, skipped=str(error))
    if not scheduled.sender and "rolled_back" not in figures:
        run = run.note_day(scheduled.day, slot=transaction.index)
    return _after_consolidation(run, state).note(scheduled.label, **figures)


def merge(
    experiment: Experiment, run: RunState, logger: PhaseLogger, scheduled: ScheduledPhase
) -> RunState:
    """Makes room where only one slot of the receiver is free: its sealed slots are seeded into one.

    Raises:
      UnrecoverableError: the merged slot lost too much of what they held.
    """
    level = scheduled.sender + 1
    run = run.note(scheduled.label, levels=f"{level} -> {level}", tokens=0)
    if check_capacity(experiment.cfg.memory, run.current.slots, level) != "merge":
        return run.note(scheduled.label, skipped=f"level {level} has room")
    key = key_of(experiment, scheduled, "transaction")
    transaction = begin_merge(experiment.cfg, run.current, level, key)
    teachers = [closed_book(experiment, transaction.teacher)]
    exchanges, probe = _replay(experiment, run, scheduled, teachers[0])
    with logger.bar(_planned(experiment), "step") as bar:
        asked = _asked(experiment, run, scheduled, teachers[0])
        state, figures = _seed(
            experiment, logger, bar, scheduled, transaction, teachers, exchanges, probe, asked
        )
    if rejection_reason := figures.get("rolled_back"):
        raise UnrecoverableError(
            f"level {level} is full and merging its slots was rolled back: {rejection_reason}; set "
            "memory.on_full='skip' and this run goes on, or start a new one with more memory.slots"
        )
    return _after_consolidation(run, state).note(scheduled.label, **figures)


def _after_consolidation(run: RunState, state: MemoryState) -> RunState:
    """The run with the memory that a consolidation left, which dreams begin with."""
    return dataclasses.replace(run, current=state, before_dreams=state.replace(wake=None))


def _planned(experiment: Experiment) -> int | None:
    """The updates of a night and the divergence before them; None: what is read decides."""
    seeding = experiment.config.seeding
    return None if seeding.epochs else int(seeding.steps) + 1


def _asked(
    experiment: Experiment, run: RunState, scheduled: ScheduledPhase, teacher: Teacher
) -> NightQuestions | None:
    """The own questions that a night asks before its morning; None: it asks none."""
    if not are_asked_at_night(experiment):
        return None
    is_open_book = scheduled.phase == "consolidate" and not scheduled.sender
    days = [scheduled.day] if is_open_book else range(scheduled.since, scheduled.day + 1)
    return NightQuestions(experiment, run, days, teacher, is_open_book)


def _seed(experiment, logger, bar, scheduled, transaction, teachers, exchanges, probe, asked=None):
    """`run_consolidation` with this run's settings; the figures of updates go to the logger.

    Returns:
      (state, figures): as `run_consolidation`, the number of sequences and of the tokens of their
      completions and, where it is not always the same, that of updates.
    """
    seeding = experiment.settings.seeding.with_shared_prefix(experiment.prompts.shared_prefix)
    seeding = seeding.sized_for(exchanges)
    bar.total = seeding.steps + 1  # and the divergence before them

    def log(step, metrics):
        bar.total = max(bar.total, bar.done + 1)  # a night may go on
        if step < 0:
            return bar.advance(1, **metrics)
        logger.update(step, metrics)
        if logger.time_estimate is not None and "time/step" in metrics:
            logger.time_estimate.add_update(scheduled.day, metrics["time/step"])
        # An update without rollouts has no reward; the bar keeps the last one.
        reward = metrics.get("reward", bar.figures.get("reward"))
        right = {k: metrics[k] for k in ("answers_right",) if k in metrics}
        bar.advance(1, kl=metrics["kl_off"], reward=reward, **right)

    state, figures = run_consolidation(
        experiment.cfg,
        experiment.params,
        experiment.tokenizer,
        experiment.judge,
        seeding,
        experiment.settings.gate,
        transaction,
        teachers=teachers,
        exchanges=exchanges,
        probe=probe,
        anchors=lambda variables: anchor_perplexity(experiment, variables, GATED),
        rng=key_of(experiment, scheduled, "updates"),
        log=log,
        answers=asked and asked.as_answers(),
        mid_phase=logger.mid_phase,
        timer=logger.timer,
    )
    divergences = {f"held_out_{name}": figures[name] for name in ("kl_before", "kl_after")}
    is_accepted = "rolled_back" not in figures
    updates = bar.done - 1
    logger.scalars(updates, divergences | {"accepted": float(is_accepted)})
    if is_accepted and not transaction.is_merge:
        logger.update(updates, _norms(state, transaction))
    if seeding.epochs or seeding.eval_steps:
        figures |= {"updates": updates}
    tokens = sum(len(e.completion) for e in exchanges)
    return state, figures | {"sequences": len(exchanges), "tokens": tokens}


def _norms(state: MemoryState, transaction: Transaction) -> dict[str, list[float]]:
    """Norms of the slot that a night has filled, layer by layer: {"norm_down": [layers], ...}."""
    slot = to_host(take_slot(state.memory, transaction.level, transaction.index))
    return {
        f"norm_{name}": [float(np.linalg.norm(layer)) for layer in leaf]
        for name, leaf in slot.items()
    }


def held_out(experiment: Experiment, run: RunState, day: int) -> list[Exchange]:
    """What measures the divergence: the day's questions that are not learnt, or its documents."""
    questions, prompts = Study.from_record(run.day(day)["study"]).held_out, experiment.prompts
    documents = experiment.days[day].documents
    return self_study.answer(questions, prompts) or self_study.recite(documents, prompts, 1)


def _replay(
    experiment: Experiment, run: RunState, scheduled: ScheduledPhase, teacher: Teacher
) -> tuple[list[Exchange], list[Exchange]]:
    """What a level hands over, as (exchanges, probe): the days it holds, closed book."""
    prompts = experiment.prompts
    days = [d for d in range(scheduled.since, scheduled.day + 1) if "study" in run.day(d)]
    exchanges = [e for d in days for e in without_documents(studied(experiment, run, d))]
    if run.current.wake is not None:
        longest = experiment.config.seeding.max_target_length
        exchanges += reread([page[:longest] for page in experiment.pages(scheduled)])
    probe = without_documents(
        [
            exchange
            for d in days
            for exchange in self_study.answer(
                Study.from_record(run.day(d)["study"]).held_out, prompts
            )
        ]
    )
    probe = probe or exchanges[:PROBE]
    rehearsed = rehearse(experiment, teacher, key_of(experiment, scheduled, "rehearsals"))
    return [*exchanges, *rehearsed], probe


def programs(run: AbstractRun) -> list[Program]:
    """The consolidation of what was studied. Consolidations between two levels and merges call the
    same functions for another level; the forecast counts them as more of these."""
    sizes, seeding = run.sizes, run.settings.seeding.sized_for(run.sizes.exchanges)
    context, shape = bucket(max(sizes.contexts)), seeding.shape
    learner, rounds = run.learner(seeding), rounds_of(seeding)
    read = reading(run, "consolidate: read", sizes.contexts)
    rehearse = [] if run.config.memory.from_context else rehearsing(run, "consolidate")
    groups = [sizes.probe, sizes.exchanges]
    knobs = ("model.remat", "seeding.accumulate", "seeding.batch_size", "seeding.max_length")
    updates = updated(run, "consolidate: update", seeding, learner)
    evaluations = seeding.steps // seeding.eval_steps + 1 if seeding.eval_steps else 0
    evaluations += run.settings.gate.answers > 0
    return [
        read,
        *rehearse,
        *(asked_programs(run, "consolidate: ask", evaluations, True) if evaluations else ()),
        *_aimed(run, shape),
        *precomputed(run, "consolidate", shape, groups, context, sum(rounds)),
        _measured(run, shape),
        *losses_of_texts(run, "consolidate: anchors", sizes.anchors[:1], 2),
        *rolled_out(run, "consolidate", seeding, learner, context),
        *(dataclasses.replace(update, knobs=knobs) for update in updates),
    ]


def _aimed(run: AbstractRun, shape: BatchShape) -> list[Program]:
    """What aims the router at what is learnt; nothing without a router."""
    if run.cfg.memory.router == "none":
        return []
    rows = run.rows(REPLAY_ROWS, shape.max_length)
    args = (run.cfg, run.variables, first_receiver(run.cfg), *rows)
    calls = math.ceil(len(run.sizes.exchanges) / REPLAY_ROWS)
    tokens, keys = REPLAY_ROWS * shape.max_length, shape.max_length / 2
    return [Program("consolidate: aim", sum_inputs, args, calls, tokens, keys, 0)]


def _measured(run: AbstractRun, shape: BatchShape) -> Program:
    """The divergence on the probe, before and after."""
    args = (run.cfg, Objective(), run.variables, run.batch(shape), None)
    scored = 2 * shape.batch_size * shape.max_target_length
    calls = 2 * batch_count(run.sizes.probe, shape)
    name = "consolidate: measure"
    return Program(name, sum_divergence, args, calls, *row_tokens(shape), scored)


def _no_programs(run: AbstractRun) -> list[Program]:
    """None of its own: the forecast counts a merge as one more `consolidate`."""
    return []


CONSOLIDATE = Phase("consolidate", consolidate, programs, resumable=True)
MERGE = Phase("merge", merge, _no_programs, resumable=True)
