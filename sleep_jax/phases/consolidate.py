"""Consolidate: a level hands what it holds to a newly unlocked slot of the next one (Knowledge
Seeding), as a transaction.

The context (level 0) is handed over by a teacher that has the day's documents in view, over what it
wrote about them in `study`; any other level by a teacher that knows them by heart, over a replay of
what was studied and read since that level last slept.

Merge: a full level first seeds its sealed slots into one, likewise.
"""

import dataclasses

import jax
import numpy as np

from sleep_jax.errors import UnrecoverableError
from sleep_jax.experiment import Experiment
from sleep_jax.memory.slots import take_slot
from sleep_jax.models.sharding import to_host
from sleep_jax.phases.evaluate import anchor_perplexity
from sleep_jax.phases.run_state import PhaseLogger, RunState, closed_book, key_of, teachers
from sleep_jax.phases.study import rehearse, studied
from sleep_jax.run_schedule import Step
from sleep_jax.seeding.consolidate import run_consolidation
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import Exchange, Teacher
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


def consolidate(experiment: Experiment, run: RunState, logger: PhaseLogger, step: Step) -> RunState:
    """Unlocks a slot and seeds it with what the sender holds, or leaves all as it was."""
    c, cfg, level = experiment.config, experiment.cfg, step.sender + 1
    key = key_of(experiment, step)
    run = run.note(step.label, levels=f"{step.sender} -> {level}", tokens=0)
    room = check_capacity(cfg.memory, run.current.slots, level)
    if room == "skip":
        return _asleep(run, run.current).note(step.label, skipped=f"level {level} is full")
    seeding = _seeding(experiment)
    with logger.bar(seeding.steps + 1, "step") as bar:  # and the divergence before them
        transaction = begin_consolidation(
            cfg,
            experiment.settings.wake,
            run.current,
            step.sender,
            c.seeding.protocol,
            jax.random.fold_in(key, 2),
        )
        if step.sender:
            those = [closed_book(experiment, transaction.teacher)]
            exchanges, probe = _replay(experiment, run, step, those[0], jax.random.fold_in(key, 3))
        else:
            those = teachers(experiment, run, experiment.days[step.day].documents)
            exchanges = studied(experiment, run, step.day)
            probe = _held_out(experiment, run, step.day)
        try:
            now, figures = _seed(
                experiment, logger, bar, transaction, those, exchanges, probe, key, step.day
            )
        except TeacherIsStudent as nothing:
            if not step.sender:
                raise
            return _asleep(run, run.current).note(step.label, skipped=str(nothing))
    if not step.sender and "rolled_back" not in figures:
        run = run.note_day(step.day, slot=transaction.index)
    figures |= {"sequences": len(exchanges), "tokens": sum(len(e.completion) for e in exchanges)}
    return _asleep(run, now).note(step.label, **figures)


def merge(experiment: Experiment, run: RunState, logger: PhaseLogger, step: Step) -> RunState:
    """Makes room where only one slot of the receiver is free: its sealed slots are seeded into one.

    Raises:
      UnrecoverableError: the one says too little of what they said.
    """
    level, key = step.sender + 1, jax.random.fold_in(key_of(experiment, step), 1)
    run = run.note(step.label, levels=f"{level} -> {level}", tokens=0)
    if check_capacity(experiment.cfg.memory, run.current.slots, level) != "merge":
        return run.note(step.label, skipped=f"level {level} has room")
    transaction = begin_merge(experiment.cfg, run.current, level, jax.random.fold_in(key, 0))
    those = [closed_book(experiment, transaction.teacher)]
    exchanges, probe = _replay(experiment, run, step, those[0], jax.random.fold_in(key, 1))
    with logger.bar(int(experiment.config.seeding.steps) + 1, "step") as bar:
        now, figures = _seed(
            experiment, logger, bar, transaction, those, exchanges, probe, key, step.day
        )
    if rejection_reason := figures.get("rolled_back"):
        raise UnrecoverableError(
            f"level {level} is full and merging its slots was rolled back: {rejection_reason}; set "
            "memory.on_full='skip' and this run goes on, or start a new one with more memory.slots"
        )
    figures |= {"sequences": len(exchanges), "tokens": sum(len(e.completion) for e in exchanges)}
    return _asleep(run, now).note(step.label, **figures)


def _asleep(run: RunState, now: MemoryState) -> RunState:
    """The night after a consolidation."""
    return dataclasses.replace(run, current=now, before_dreams=now.replace(wake=None))


def _seed(experiment, logger, bar, transaction, those, exchanges, probe, key, day):
    """`run_consolidation` with this run's settings; its figures go to the logger."""
    c = experiment.config

    def log(number, metrics):
        if number < 0:
            return bar.advance(1, **metrics)
        logger.update(number, metrics)
        if logger.time_estimate is not None and "time/step" in metrics:
            logger.time_estimate.add_update(day, metrics["time/step"])
        # Where nothing was rolled out yet there is none.
        reward = metrics.get("reward", bar.figures.get("reward"))
        bar.advance(1, kl=metrics["kl_off"], reward=reward)

    now, figures = run_consolidation(
        experiment.cfg,
        experiment.params,
        experiment.tokenizer,
        experiment.judge,
        _seeding(experiment),
        experiment.settings.gate,
        transaction,
        teachers=those,
        exchanges=exchanges,
        probe=probe,
        anchors=lambda variables: anchor_perplexity(experiment, variables, GATED),
        rng=jax.random.fold_in(key, 4),
        log=log,
        mid_phase=logger.mid_phase,
        timer=logger.timer,
    )
    held_out = {f"held_out_{name}": figures[name] for name in ("kl_before", "kl_after")}
    is_accepted = "rolled_back" not in figures
    logger.scalars(c.seeding.steps, held_out | {"accepted": float(is_accepted)})
    if is_accepted and not transaction.is_merge:
        logger.update(c.seeding.steps, _norms(now, transaction))
    return now, figures


def _seeding(experiment: Experiment) -> SeedingConfig:
    return experiment.settings.seeding.with_shared_prefix(experiment.prompts.shared_prefix)


def _norms(now: MemoryState, transaction: Transaction) -> dict[str, list[float]]:
    """Norms of the slot that a night has filled, layer by layer: {"norm_down": [layers], ...}."""
    slot = to_host(take_slot(now.memory, transaction.level, transaction.index))
    return {
        f"norm_{name}": [float(np.linalg.norm(layer)) for layer in leaf]
        for name, leaf in slot.items()
    }


def _held_out(experiment: Experiment, run: RunState, day: int) -> list[Exchange]:
    """What measures the divergence: the day's questions that are not learnt, or its documents."""
    held_out, prompts = Study.from_record(run.day(day)["study"]).held_out, experiment.prompts
    documents = experiment.days[day].documents
    return self_study.answer(held_out, prompts) or self_study.recite(documents, prompts, 1)


def _replay(experiment: Experiment, run: RunState, step: Step, teacher: Teacher, key):
    """What a level hands over, as (exchanges, probe): the days it holds, told by heart."""
    prompts = experiment.prompts
    days = [d for d in range(step.since, step.day + 1) if "study" in run.day(d)]
    exchanges = [e for d in days for e in without_documents(studied(experiment, run, d))]
    if run.current.wake is not None:
        longest = experiment.config.seeding.max_target_length
        exchanges += reread([page[:longest] for page in experiment.pages(step)])
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
    return [*exchanges, *rehearse(experiment, teacher, key)], probe
