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

from sleep_jax.errors import DeadEnd
from sleep_jax.itinerary import Step
from sleep_jax.memory.slots import take_slot
from sleep_jax.models.sharding import to_host
from sleep_jax.phases.evaluate import anchor_perplexity
from sleep_jax.phases.night import Desk, Night, by_heart, key_of, teachers
from sleep_jax.phases.study import rehearse, studied
from sleep_jax.seeding import self_study
from sleep_jax.seeding.config import SeedingConfig
from sleep_jax.seeding.consolidate import carry_out
from sleep_jax.seeding.self_study import Study, from_memory, reread
from sleep_jax.seeding.sequences import Exchange, Teacher
from sleep_jax.seeding.transaction import (
    Self,
    TeacherIsStudent,
    Transaction,
    begin,
    begin_merge,
    check_room,
)
from sleep_jax.sleeper import Sleeper

GATED = "anchor_perplexity"  # the anchor set that a night may not lose
PROBE = 8  # sequences that measure the divergence where there are no held-out questions


def consolidate(sleeper: Sleeper, night: Night, desk: Desk, step: Step) -> Night:
    """Unlocks a slot and seeds it with what the sender holds, or leaves all as it was."""
    c, cfg, level = sleeper.config, sleeper.cfg, step.sender + 1
    key = key_of(sleeper, step)
    night = night.note(step.label, levels=f"{step.sender} -> {level}", tokens=0)
    room = check_room(cfg.memory, night.now.slots, level)
    if room == "skip":
        return _asleep(night, night.now).note(step.label, skipped=f"level {level} is full")
    seeding = _seeding(sleeper)
    with desk.bar(seeding.steps + 1, "step") as bar:  # and the divergence before them
        transaction = begin(
            cfg,
            sleeper.settings.wake,
            night.now,
            step.sender,
            c.seeding.protocol,
            jax.random.fold_in(key, 2),
        )
        if step.sender:
            those = [by_heart(sleeper, transaction.teacher)]
            exchanges, probe = _replay(sleeper, night, step, those[0], jax.random.fold_in(key, 3))
        else:
            those = teachers(sleeper, night, sleeper.days[step.day].documents)
            exchanges = studied(sleeper, night, step.day)
            probe = _held_out(sleeper, night, step.day)
        try:
            now, figures = _seed(
                sleeper, desk, bar, transaction, those, exchanges, probe, key, step.day
            )
        except TeacherIsStudent as nothing:
            if not step.sender:
                raise
            return _asleep(night, night.now).note(step.label, skipped=str(nothing))
    if not step.sender and "rolled_back" not in figures:
        night = night.note_day(step.day, slot=transaction.index)
    figures |= {"sequences": len(exchanges), "tokens": sum(len(e.completion) for e in exchanges)}
    return _asleep(night, now).note(step.label, **figures)


def merge(sleeper: Sleeper, night: Night, desk: Desk, step: Step) -> Night:
    """Makes room where only one slot of the receiver is free: its sealed slots are seeded into one.

    Raises:
      DeadEnd: the one says too little of what they said.
    """
    level, key = step.sender + 1, jax.random.fold_in(key_of(sleeper, step), 1)
    night = night.note(step.label, levels=f"{level} -> {level}", tokens=0)
    if check_room(sleeper.cfg.memory, night.now.slots, level) != "merge":
        return night.note(step.label, skipped=f"level {level} has room")
    transaction = begin_merge(sleeper.cfg, night.now, level, jax.random.fold_in(key, 0))
    those = [by_heart(sleeper, transaction.teacher)]
    exchanges, probe = _replay(sleeper, night, step, those[0], jax.random.fold_in(key, 1))
    with desk.bar(int(sleeper.config.seeding.steps) + 1, "step") as bar:
        now, figures = _seed(
            sleeper, desk, bar, transaction, those, exchanges, probe, key, step.day
        )
    if objection := figures.get("rolled_back"):
        raise DeadEnd(
            f"level {level} is full and merging its slots was rolled back: {objection}; set "
            "memory.on_full='skip' and this run goes on, or start a new one with more memory.slots"
        )
    figures |= {"sequences": len(exchanges), "tokens": sum(len(e.completion) for e in exchanges)}
    return _asleep(night, now).note(step.label, **figures)


def _asleep(night: Night, now: Self) -> Night:
    """The night after a consolidation."""
    return dataclasses.replace(night, now=now, consolidated=now.replace(wake=None))


def _seed(sleeper, desk, bar, transaction, those, exchanges, probe, key, day):
    """`carry_out` with this run's settings; its figures go to the desk."""
    c = sleeper.config

    def log(number, metrics):
        if number < 0:
            return bar.advance(1, **metrics)
        desk.update(number, metrics)
        if desk.pace is not None and "time/step" in metrics:
            desk.pace.updated(day, metrics["time/step"])
        # Where nothing was rolled out yet there is none.
        reward = metrics.get("reward", bar.figures.get("reward"))
        bar.advance(1, kl=metrics["kl_off"], reward=reward)

    now, figures = carry_out(
        sleeper.cfg,
        sleeper.params,
        sleeper.tokenizer,
        sleeper.judge,
        _seeding(sleeper),
        sleeper.settings.gate,
        transaction,
        teachers=those,
        exchanges=exchanges,
        probe=probe,
        anchors=lambda variables: anchor_perplexity(sleeper, variables, GATED),
        rng=jax.random.fold_in(key, 4),
        log=log,
        bookmark=desk.bookmark,
        meter=desk.meter,
    )
    held_out = {f"held_out_{name}": figures[name] for name in ("kl_before", "kl_after")}
    is_accepted = "rolled_back" not in figures
    desk.scalars(c.seeding.steps, held_out | {"accepted": float(is_accepted)})
    if is_accepted and not transaction.is_merge:
        desk.update(c.seeding.steps, _norms(now, transaction))
    return now, figures


def _seeding(sleeper: Sleeper) -> SeedingConfig:
    return sleeper.settings.seeding.with_shared_prefix(sleeper.prompts.opening)


def _norms(now: Self, transaction: Transaction) -> dict[str, list[float]]:
    """Norms of the slot that a night has filled, layer by layer: {"norm_down": [layers], ...}."""
    slot = to_host(take_slot(now.memory, transaction.level, transaction.index))
    return {
        f"norm_{name}": [float(np.linalg.norm(layer)) for layer in leaf]
        for name, leaf in slot.items()
    }


def _held_out(sleeper: Sleeper, night: Night, day: int) -> list[Exchange]:
    """What measures the divergence: the day's questions that are not learnt, or its documents."""
    held_out, prompts = Study.of(night.day(day)["study"]).held_out, sleeper.prompts
    documents = sleeper.days[day].documents
    return self_study.answer(held_out, prompts) or self_study.recite(documents, prompts, 1)


def _replay(sleeper: Sleeper, night: Night, step: Step, teacher: Teacher, key):
    """What a level hands over, as (exchanges, probe): the days it holds, told by heart."""
    prompts = sleeper.prompts
    days = [d for d in range(step.since, step.day + 1) if "study" in night.day(d)]
    exchanges = [e for d in days for e in from_memory(studied(sleeper, night, d))]
    if night.now.wake is not None:
        longest = sleeper.config.seeding.scored
        exchanges += reread([page[:longest] for page in sleeper.pages(step)])
    probe = from_memory(
        [
            exchange
            for d in days
            for exchange in self_study.answer(Study.of(night.day(d)["study"]).held_out, prompts)
        ]
    )
    probe = probe or exchanges[:PROBE]
    return [*exchanges, *rehearse(sleeper, teacher, key)], probe
