"""Who teaches what: the day, what a level hands over, and what was known before."""

import dataclasses
import runpy
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from articulate import articulate
from hurry import Hurry

from sleep_jax import lifecycle
from sleep_jax.experiment import load_experiment
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.memory.slots import put_slot, put_wake, take_slot, take_wake, unlock, zeroed_wake
from sleep_jax.phases import teachers as module
from sleep_jax.phases.teachers import (
    teacher_of_day,
    teacher_of_level,
    teacher_with_slot,
    with_other_teachers,
)
from sleep_jax.runtime.preemption import Preempted
from sleep_jax.seeding.sequences import Exchange
from sleep_jax.seeding.transaction import begin_consolidation, begin_merge
from sleep_jax.study import questions


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "levels"), [("sleep_tiny", ()), ("levels_tiny", ("3",))])
def test_run_with_two_teachers_stopped_midway_ends_with_the_same_bits(
    preset, levels, tmp_path, monkeypatch
):
    """Three days: the second night and the third ask again what earlier ones have learnt."""
    config = runpy.run_path(f"configs/{preset}.py")["get_config"](*levels)
    config.data.documents, config.data.episodes = "samples:3", 3
    config.memory.slots = (3,) if preset == "sleep_tiny" else config.memory.slots
    config.seeding.teacher, config.seeding.teacher_refresh = "ema", 2
    config.seeding.known_share, config.study.earlier_questions = 0.5, 1
    config.dreaming.steps = 0
    # More updates than a `Hurry` lets pass, and a place to stop after each.
    config.seeding.steps, config.seeding.steps_per_generation = 8, 1
    articulate(monkeypatch)
    monkeypatch.setattr(questions, "hold_out", lambda asked, count: ([], asked))
    experiment = load_experiment(config)
    run = lifecycle.run(experiment, str(tmp_path / "whole"), quiet=True)
    phases = run.record["phases"]
    assert [len(run.day(day)["study"]["earlier"]) for day in range(3)] == [0, 1, 1]
    from_context = [x for x in phases.values() if x.get("levels") == "0 -> 1"]
    assert [x.get("earlier_questions", 0) for x in from_context] == [0, 1, 1]
    assert all(np.isfinite(x["kl_known_after"]) for x in phases.values() if "kl_after" in x)
    stops, watch = [], Hurry()
    while True:
        try:
            again = lifecycle.run(experiment, str(tmp_path / "stopped"), quiet=True, watch=watch)
            break
        except Preempted as stopped:
            stops.append(stopped.where)
    assert any("updates of consolidate" in stop for stop in stops), stops
    assert jax.tree.all(jax.tree.map(np.array_equal, again.arrays, run.arrays))


@pytest.fixture(scope="module")
def levels():
    """Three levels, of which the first two learn by day."""
    return load_experiment(runpy.run_path("configs/levels_tiny.py")["get_config"]("3"))


def configured(experiment, **seeding):
    """The experiment with other settings of `seeding`."""
    config = ml_collections.ConfigDict(experiment.config.to_dict())
    config.seeding.update(seeding)
    return dataclasses.replace(experiment, config=ml_collections.FrozenConfigDict(config))


@pytest.fixture(scope="module")
def evening(levels):
    """A day has ended with both levels' wake weights changed, and level 1, which had a slot, has
    slept since."""
    run = lifecycle.init_run_state(levels)
    has_read = run.before_sleep
    wake = jax.tree.map(lambda x: jnp.ones_like(x) * 0.1, take_wake(has_read.memory))
    slot = jax.tree.map(lambda x: jnp.ones_like(x) * 0.1, take_slot(has_read.memory, 1, 0))
    memory = put_slot(put_wake(has_read.memory, wake), 1, 0, slot)
    has_read = has_read.replace(memory=memory, slots=unlock(has_read.slots, 1)[0])
    awake = run.current.replace(
        memory=has_read.memory, slots=has_read.slots, wake=run.current.wake.replace(wake=wake)
    )
    slept = awake.replace(memory=zeroed_wake(memory, [1]), slots=run.before_sleep.slots)
    run = dataclasses.replace(run, current=slept, before_sleep=has_read)
    return types.SimpleNamespace(run=run, awake=awake)


def parts(variables):
    """The parts of a memory that change outputs."""
    wake = {n: bool(x["down"].any()) for n, x in take_wake(variables["memory"]).items()}
    slots = {n: bool(x["active"].any()) for n, x in variables["slots"]["layers"].items()}
    return {f"wake of {n}" for n, x in wake.items() if x} | {
        f"slots of {n}" for n, x in slots.items() if x
    }


HAS_READ = {"wake of level_1", "wake of level_2", "slots of level_1"}


@pytest.mark.parametrize(
    ("teacher", "new"), [("self", HAS_READ), ("base", set()), ("ema", HAS_READ)]
)
@pytest.mark.parametrize(
    ("known_teacher", "known"),
    [("self", HAS_READ), ("before", HAS_READ - {"wake of level_1"}), ("base", set())],
)
def test_teacher_of_day_by_kind(levels, evening, monkeypatch, teacher, new, known_teacher, known):
    monkeypatch.setattr(module, "reader", lambda _, cfg, x, documents: module.Teacher(cfg, x, ()))
    experiment = configured(levels, teacher=teacher, known_teacher=known_teacher)
    got = teacher_of_day(experiment, evening.run, experiment.days[0].documents)
    assert parts(got.variables) == new
    assert parts(got.of_known.variables) == known
    assert (got.known_variables is None) == (known == new)
    assert got.variables["params"] is got.of_known.variables["params"] is experiment.params


@pytest.mark.parametrize("teacher", ["self", "base"])
@pytest.mark.parametrize(
    ("known_teacher", "known"), [("before", HAS_READ - {"wake of level_1"}), ("base", set())]
)
def test_rehearsals_may_be_taught_by_the_base(
    levels, evening, monkeypatch, teacher, known_teacher, known
):
    monkeypatch.setattr(module, "reader", lambda _, cfg, x, documents: module.Teacher(cfg, x, ()))
    seeding = {"teacher": teacher, "known_teacher": known_teacher, "rehearsal_teacher": "base"}
    experiment = configured(levels, **seeding)
    got = teacher_of_day(experiment, evening.run, ())
    by = {kind: got.of(Exchange(None, (1,), (1,), (2,), kind)) for kind in ("rehearse", "earlier")}
    assert parts(by["rehearse"].variables) == set()
    assert parts(by["earlier"].variables) == known
    assert got.of(Exchange(0, (1,), (1,), (2,), "answer")) is got
    if teacher == "base":  # not held twice
        assert by["rehearse"].variables is got.variables


@pytest.mark.parametrize(
    ("known_teacher", "known"),
    [("self", HAS_READ), ("before", HAS_READ - {"wake of level_1"}), ("base", set())],
)
def test_teacher_of_level_by_kind(levels, evening, known_teacher, known):
    """Level 1 hands over: whatever teaches a day, it teaches what is new itself."""
    experiment = configured(levels, teacher="base", known_teacher=known_teacher)
    wake, protocol = experiment.settings.wake, "commit_then_clear"
    transaction = begin_consolidation(
        experiment.cfg, wake, evening.awake, 1, protocol, jax.random.key(0)
    )
    got = teacher_of_level(experiment, transaction)
    assert parts(got.variables) == HAS_READ and parts(got.of_known.variables) == known
    assert parts(transaction.student.variables(())) == {"wake of level_2", "slots of level_2"}


def test_merge_has_one_teacher(levels, evening):
    state = evening.awake.replace(slots=unlock(evening.awake.slots, 2)[0])
    transaction = begin_merge(levels.cfg, state, 2, jax.random.key(0))
    assert teacher_of_level(levels, transaction).known_variables is None
    known = teacher_of_level(configured(levels, known_teacher="base"), transaction).of_known
    assert parts(known.variables) == set()


def test_what_was_known_has_no_teacher_of_its_own_where_nothing_learns_by_day(levels, evening):
    run = dataclasses.replace(evening.run, current=evening.run.before_sleep)
    for name in ("before", "self"):
        experiment = configured(levels, known_teacher=name)
        assert teacher_of_day(experiment, run, ()).known_variables is None
    assert teacher_of_day(configured(levels, known_teacher="base"), run, ()).known_variables


def test_other_teachers_teach_what_was_known_themselves(levels, evening):
    other = (levels.cfg.replace(memory=MemoryConfig()), levels.params)
    experiment = configured(levels, teachers=("tiny",), teacher_weights=(0.75, 0.25))
    experiment = dataclasses.replace(experiment, others=(other,))
    documents = experiment.days[0].documents
    first = teacher_of_day(experiment, evening.run, documents)
    teachers = with_other_teachers(experiment, first, documents)
    assert [t.weight for t in teachers] == [0.75, 0.25]
    assert [t.known_variables is None for t in teachers] == [False, True]
    assert teachers[0].of_known.weight == 0.75


def test_teacher_with_slot_reads_the_documents_with_it(levels, evening):
    documents = levels.days[0].documents
    experiment = configured(levels, teacher="ema")
    teacher = teacher_of_day(experiment, evening.run, documents)
    transaction = begin_consolidation(
        experiment.cfg, None, evening.run.current, 0, "commit_then_clear", jax.random.key(0)
    )
    assert teacher_with_slot(levels, teacher, transaction, documents) is None
    with_slot = teacher_with_slot(experiment, teacher, transaction, documents)
    initial = take_slot(transaction.student.memory, 1, transaction.index)
    slot = jax.tree.map(jnp.negative, initial)
    as_it_was, followed = with_slot(initial), with_slot(slot)
    memory = followed.variables["memory"]
    jax.tree.map(np.testing.assert_array_equal, take_slot(memory, 1, transaction.index), slot)
    restored = put_slot(memory, 1, transaction.index, initial)
    jax.tree.map(np.testing.assert_array_equal, restored, transaction.student.memory)
    same = jax.tree.map(np.array_equal, as_it_was.context, followed.context)
    assert not jax.tree.all(same)
    assert followed.known_variables is teacher.of_known.variables
