"""Consolidate: a level hands what it holds to a newly unlocked slot of the next one (Knowledge
Seeding), as a transaction.

The context (level 0) is handed over by a teacher that has the day's documents in view, over what it
wrote about them in `study`; any other level by a closed-book teacher, over a replay of what was
studied and read since that level last slept. What was known before is taught by another teacher
(`phases.teachers`).

Merge: a full level first seeds its sealed slots into one, likewise.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
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
from sleep_jax.phases.run_state import PhaseLogger, RunState
from sleep_jax.phases.screened import documents_to_learn
from sleep_jax.phases.study import ask_again, asking_again, rehearse, rehearsing, studied
from sleep_jax.phases.tasks import falls_of_tasks
from sleep_jax.phases.teachers import (
    teacher_of_day,
    teacher_of_level,
    teacher_with_slot,
    with_other_teachers,
)
from sleep_jax.programs.abstract import AbstractRun, first_receiver
from sleep_jax.programs.calls import losses_of_texts, reading, repeated
from sleep_jax.programs.program import Program
from sleep_jax.programs.seeding import (
    batch_count,
    begun_as_sender,
    kept_out,
    precomputed,
    refreshes,
    rolled_out,
    rounds_of,
    row_tokens,
    updated,
)
from sleep_jax.run_schedule import ScheduledPhase
from sleep_jax.seeding.consolidate import known_probe, run_consolidation, sum_divergence
from sleep_jax.seeding.first_order import GRADIENT, divergence_alone, init_gradient
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.router_key import (
    REPLAY_ROWS,
    add_inputs,
    discriminant,
    init_moments,
    sum_inputs,
)
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import BatchShape, Exchange, Teacher
from sleep_jax.seeding.step import seeding_step
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
# What an update's memory depends on.
KNOBS = ("model.remat", "seeding.accumulate", "seeding.batch_size", "seeding.max_length")


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
        with_slot = None
        if scheduled.sender:
            teachers = [teacher_of_level(experiment, transaction)]
            exchanges, probe = _replay(experiment, run, scheduled, teachers[0])
        else:
            documents = documents_to_learn(experiment, run, scheduled.day)
            teacher = teacher_of_day(experiment, run, documents)
            teachers = with_other_teachers(experiment, teacher, documents)
            with_slot = teacher_with_slot(experiment, teachers[0], transaction, documents)
            exchanges = studied(experiment, run, scheduled.day)
            probe = held_out(experiment, run, scheduled.day)
        asked = _asked(experiment, run, scheduled, teachers[0])
        if asked and not scheduled.sender:
            run = note_open_book(run, scheduled.day, asked.right)
        try:
            state, figures = _seed(
                experiment,
                run,
                logger,
                bar,
                scheduled,
                transaction,
                teachers,
                exchanges,
                probe,
                asked,
                with_slot,
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
    teachers = [teacher_of_level(experiment, transaction)]
    exchanges, probe = _replay(experiment, run, scheduled, teachers[0])
    with logger.bar(_planned(experiment), "step") as bar:
        asked = _asked(experiment, run, scheduled, teachers[0])
        state, figures = _seed(
            experiment, run, logger, bar, scheduled, transaction, teachers, exchanges, probe, asked
        )
    if rejection_reason := figures.get("rolled_back"):
        raise UnrecoverableError(
            f"level {level} is full and merging its slots was rolled back: {rejection_reason}; set "
            "memory.on_full='skip' and this run goes on, or give it more memory.slots by --continue"
        )
    return _after_consolidation(run, state).note(scheduled.label, **figures)


def _amounts(exchanges: Sequence[Exchange]) -> dict[str, int]:
    """How much a night learnt from; earlier questions are counted where there are some."""
    amounts = {"sequences": len(exchanges), "tokens": sum(len(e.completion) for e in exchanges)}
    earlier = sum(e.kind == "earlier" for e in exchanges)
    return amounts | ({"earlier_questions": earlier} if earlier else {})


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
    """The own questions that are asked while a night learns; None: none are."""
    if not are_asked_at_night(experiment):
        return None
    is_open_book = scheduled.phase == "consolidate" and not scheduled.sender
    days = [scheduled.day] if is_open_book else range(scheduled.since, scheduled.day + 1)
    return NightQuestions(experiment, run, days, teacher, is_open_book)


def _seed(
    experiment,
    run,
    logger,
    bar,
    scheduled,
    transaction,
    teachers,
    exchanges,
    probe,
    asked=None,
    with_slot=None,
):
    """`run_consolidation` with this run's settings; the figures of updates go to the logger.

    Returns:
      (state, figures): as `run_consolidation`, the number of sequences, of the tokens of their
      completions and, where there are some, of earlier questions, and that of updates where it is
      not always the same.
    """
    seeding = experiment.settings.seeding.with_shared_prefix(experiment.prompts.shared_prefix)
    seeding = seeding.sized_for(exchanges)
    bar.total = seeding.steps + 1  # and the divergence before them

    def log(step, metrics):
        bar.total = max(bar.total, bar.done + 1)  # a night may go on
        if step < 0:
            if "kl_known_before" in metrics:
                logger.scalars(0, {"kl_known": metrics["kl_known_before"]})
            shown = {"kl_before": metrics["kl_before"]}
            if "first_order_fall" in metrics:
                shown["first_order_fall"] = f"{metrics['first_order_fall']:.2g} of it"
            return bar.advance(1, **shown)
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
        teacher_with_slot=with_slot,
        answers=asked and asked.as_answers(),
        task_falls=falls_of_tasks(experiment, run),
        mid_phase=logger.mid_phase,
        timer=logger.timer,
    )
    divergences = {f"held_out_{name}": figures[name] for name in ("kl_before", "kl_after")}
    if "kl_known_after" in figures:
        divergences["kl_known"] = figures["kl_known_after"]
    is_accepted = "rolled_back" not in figures
    updates = bar.done - 1
    logger.scalars(updates, divergences | {"accepted": float(is_accepted)})
    if is_accepted and not transaction.is_merge:
        logger.update(updates, _norms(state, transaction))
    if seeding.epochs or seeding.eval_steps:
        figures |= {"updates": updates}
    return state, figures | _amounts(exchanges)


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
    documents = documents_to_learn(experiment, run, day)
    return self_study.answer(questions, prompts) or self_study.recite(documents, prompts, 1)


def _replay(
    experiment: Experiment, run: RunState, scheduled: ScheduledPhase, teacher: Teacher
) -> tuple[list[Exchange], list[Exchange]]:
    """What a level hands over, as (exchanges, probe): the days it holds, closed book, and what was
    known before them. Forgotten days are left out."""
    prompts = experiment.prompts
    span = range(scheduled.since, scheduled.day + 1)
    days = [d for d in span if "study" in run.day(d) and not run.is_forgotten(d)]
    exchanges = [e for d in days for e in without_documents(studied(experiment, run, d))]
    if run.current.wake is not None:
        longest = experiment.config.seeding.max_target_length
        forgotten = [d for d in span if run.is_forgotten(d)]
        pages = experiment.pages(scheduled, forgotten)
        exchanges += reread([page[:longest] for page in pages])
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
    key = key_of(experiment, scheduled, "earlier")
    asked_again = ask_again(experiment, run, teacher, scheduled.since, key)
    return [*exchanges, *rehearsed, *asked_again], probe


def programs(run: AbstractRun) -> list[Program]:
    """The consolidation of what was studied. Consolidations between two levels and merges call the
    same functions for another level; the forecast counts them as more of these."""
    sizes, seeding = run.sizes, run.settings.seeding.sized_for(run.sizes.exchanges)
    context, shape = bucket(max(sizes.contexts)), seeding.shape
    learner, rounds = run.learner(seeding), rounds_of(seeding)
    read = reading(run, "consolidate: read", sizes.contexts)
    known = [*rehearsing(run, "consolidate"), *asking_again(run, "consolidate")]
    new = [e for e in sizes.exchanges if not e.is_known]
    groups = [sizes.probe, sizes.exchanges, known_probe(sizes.exchanges)]
    groups += [new] * refreshes(seeding)
    updates = updated(run, "consolidate: update", seeding, learner)
    evaluations = seeding.steps // seeding.eval_steps + 1 if seeding.eval_steps else 0
    evaluations += run.settings.gate.answers > 0
    return [
        *repeated([read], 1 + (seeding.teacher == "ema") + refreshes(seeding)),
        *([] if run.config.memory.from_context else known),
        *(asked_programs(run, "consolidate: ask", evaluations, True) if evaluations else ()),
        *_aimed(run, shape),
        *precomputed(run, "consolidate", shape, groups, context, sum(rounds)),
        _measured(run, shape),
        *_bounded(run, seeding),
        *losses_of_texts(run, "consolidate: anchors", sizes.anchors[:1], 2),
        *begun_as_sender(run, "consolidate", seeding, sizes.exchanges),
        *kept_out(run, "consolidate", seeding, sizes.exchanges),
        *rolled_out(run, "consolidate", seeding, learner, context),
        *(dataclasses.replace(update, knobs=KNOBS) for update in updates),
    ]


def _aimed(run: AbstractRun, shape: BatchShape) -> list[Program]:
    """What aims the router at what is learnt; nothing without a router."""
    if run.cfg.memory.router == "none":
        return []
    rows, level = run.rows(REPLAY_ROWS, shape.max_length), first_receiver(run.cfg)
    tokens, keys = REPLAY_ROWS * shape.max_length, shape.max_length / 2
    exchanges = run.sizes.exchanges
    if run.cfg.memory.router_key == "mean":
        args = (run.cfg, run.variables, level, *rows)
        calls = math.ceil(len(exchanges) / REPLAY_ROWS)
        return [Program("consolidate: aim", sum_inputs, args, calls, tokens, keys, 0)]
    init = functools.partial(init_moments, run.cfg, level=level)
    moments = run.tree(jax.eval_shape(init, run.variables), "moments")
    args = (run.cfg, run.variables, level, moments, *rows)
    known = sum(e.is_known for e in exchanges)
    calls = math.ceil(known / REPLAY_ROWS) + math.ceil((len(exchanges) - known) / REPLAY_ROWS)
    solved = (moments.mean, moments.mean, moments.scatter, moments.count)
    return [
        Program("consolidate: aim", add_inputs, args, calls, tokens, keys, 0),
        Program("consolidate: tell apart", discriminant, solved, 1, 0, 0, 0),
    ]


def _measured(run: AbstractRun, shape: BatchShape) -> Program:
    """The divergence on the probe and on what was known, before and after."""
    args = (run.cfg, Objective(), run.variables, run.batch(shape), None)
    scored = 2 * shape.batch_size * shape.max_target_length
    known = known_probe(run.sizes.exchanges)
    calls = 2 * (batch_count(run.sizes.probe, shape) + batch_count(known, shape))
    name = "consolidate: measure"
    return Program(name, sum_divergence, args, calls, *row_tokens(shape), scored)


def _bounded(run: AbstractRun, seeding: SeedingConfig) -> list[Program]:
    """The gradient before the first update, which says what the night can do; nothing where the
    gate asks for nothing."""
    if run.settings.gate.divergence >= 1:
        return []
    level, shape = first_receiver(run.cfg), seeding.shape
    state = jax.eval_shape(lambda m: init_gradient(m, level, 0), run.variables["memory"])
    args = (run.cfg, divergence_alone(seeding), GRADIENT, level, run.array("tokens/index"))
    args += (run.tree(state, "learner"), run.variables, run.batch(shape), None)
    scored = 4 * shape.batch_size * shape.max_target_length
    calls = batch_count(run.sizes.probe, shape)
    name = "consolidate: gradient"
    return [Program(name, seeding_step, args, calls, *row_tokens(shape), scored, 2, knobs=KNOBS)]


def _no_programs(run: AbstractRun) -> list[Program]:
    """None of its own: the forecast counts a merge as one more `consolidate`."""
    return []


CONSOLIDATE = Phase("consolidate", consolidate, programs, resumable=True)
MERGE = Phase("merge", merge, _no_programs, resumable=True)
