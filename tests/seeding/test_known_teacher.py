"""What was known before the day has a teacher of its own; that of the day may follow it."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from sample_exchanges import EXCHANGES, SHAPE, exchange, tokens

from sleep_jax.memory.slots import put_slot, take_slot, unlock
from sleep_jax.seeding.consolidate import KNOWN_PROBE, known_probe, mean_divergence, seed_slot
from sleep_jax.seeding.imitation import ImitationConfig
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import Exchange, Teacher, teacher_hidden
from sleep_jax.seeding.step import seeding_step
from sleep_jax.seeding.trunk import precompute
from sleep_jax.wake.context import read


def closed_book(kind):
    prompt = tokens(4)
    return Exchange(None, prompt, prompt, tokens(5), kind)


KNOWN = [closed_book("rehearse"), closed_book("earlier")]
NEW = [e for e in EXCHANGES if e.kind != "rehearse"]
ALL = [*NEW, *KNOWN]


def seeding(**changes):
    settings = {
        "steps": 6,
        "learning_rate": 0.02,
        "warmup": 0,
        "shape": SHAPE,
        "num_prompts": 0,
        "objective": Objective(alpha=1.0, lam=0.0),
        "imitation": ImitationConfig(num_generations=2, max_new_tokens=4),
    }
    return SeedingConfig(**settings | changes)


@pytest.fixture(scope="module")
def teacher(cfg, trained, variables):
    """A model with other slots that has read two documents; the initial one knows the rest."""
    context, _, _ = read(cfg, trained, [tokens(12), tokens(5), ()])
    return Teacher(cfg, trained, context, known_variables=variables)


@pytest.fixture(scope="module")
def night(variables, teacher):
    """Arguments of `seed_slot`; the student begins as the teacher of what was known."""
    slots, index = unlock(variables["slots"], 1)
    return {
        "student": variables | {"slots": slots},
        "teachers": [teacher],
        "level": 1,
        "index": index,
        "exchanges": ALL,
        "rng": jax.random.key(0),
    }


def judge(candidates, references):
    return np.array([float(len(c) % 2) for c in candidates], np.float32)


def divergence(cfg, model, night, exchanges):
    states = precompute(cfg, night["student"], night["teachers"], exchanges, SHAPE)
    return mean_divergence(cfg, model, exchanges, states, night["teachers"], SHAPE)


def test_is_known_by_its_kind():
    kinds = ("recite", "complete", "quote", "answer", "reread", "rollout", "rehearse", "earlier")
    assert [k for k in kinds if exchange(3, None, k).is_known] == ["rehearse", "earlier"]


def test_precompute_takes_the_states_of_what_was_known_from_its_teacher(cfg, teacher, night):
    got = precompute(cfg, night["student"], [teacher], ALL, SHAPE)
    empty, _, _ = read(cfg, teacher.known_variables, [()])
    for e, states in zip(ALL, got):
        by = (
            (teacher.known_variables, empty) if e.is_known else (teacher.variables, teacher.context)
        )
        [expected] = teacher_hidden(cfg, *by, [e])
        np.testing.assert_allclose(states.teacher, expected, atol=1e-5)
        others = (teacher.variables, empty) if e.is_known else (teacher.known_variables, empty)
        [wrong] = teacher_hidden(cfg, *others, [dataclasses.replace(e, document=None)])
        assert np.abs(states.teacher - wrong).max() > 0.1


def test_precompute_takes_the_states_of_rehearsals_from_their_teacher(cfg, teacher, night):
    of_rehearsals = jax.tree.map(lambda x: 1.5 * x, teacher.variables["params"])
    variables = teacher.variables | {"params": of_rehearsals}
    with_own = dataclasses.replace(teacher, rehearsal_variables=variables)
    got = precompute(cfg, night["student"], [with_own], ALL, SHAPE)
    as_before = precompute(cfg, night["student"], [teacher], ALL, SHAPE)
    empty, _, _ = read(cfg, variables, [()])
    for e, states, others in zip(ALL, got, as_before):
        if e.kind != "rehearse":
            np.testing.assert_allclose(states.teacher, others.teacher, atol=1e-5)
            continue
        [expected] = teacher_hidden(cfg, variables, empty, [e])
        np.testing.assert_allclose(states.teacher, expected, atol=1e-5)
        assert np.abs(states.teacher - others.teacher).max() > 0.1


def test_precompute_replaces_the_first_of_several_teachers(cfg, teacher, night):
    second = dataclasses.replace(teacher, weight=0.5, known_variables=None)
    first = dataclasses.replace(teacher, weight=0.5)
    got = precompute(cfg, night["student"], [first, second], KNOWN, SHAPE)
    alone = precompute(cfg, night["student"], [second], KNOWN, SHAPE)
    for states, expected in zip(got, alone):
        known, other = np.split(states.teacher, 2, axis=-1)
        np.testing.assert_allclose(other, expected.teacher, atol=1e-5)
        assert np.abs(known - other).max() > 0.1


def test_seed_slot_keeps_what_was_known_and_changes_only_the_slot(cfg, tokenizer, night):
    before = jax.tree.map(np.array, night["student"])
    config = seeding(steps=30, known_share=0.5)
    learnt = seed_slot(cfg, tokenizer, judge, config, **night, log=lambda *_: None)
    for name in ("params", "slots"):
        jax.tree.map(np.testing.assert_array_equal, learnt[name], before[name])
    restored = put_slot(learnt["memory"], 1, 0, take_slot(before["memory"], 1, 0))
    jax.tree.map(np.testing.assert_array_equal, restored, before["memory"])

    # Taught by the self alone, what was known moves with the day.
    by_self = [dataclasses.replace(night["teachers"][0], known_variables=None)]
    moved = seed_slot(
        cfg, tokenizer, judge, config, **night | {"teachers": by_self}, log=lambda *_: None
    )
    assert divergence(cfg, night["student"], night, KNOWN) < 1e-6
    kept, lost = (divergence(cfg, x, night, KNOWN) for x in (learnt, moved))
    assert kept < 0.2 * lost
    assert divergence(cfg, learnt, night, NEW) < 0.7 * divergence(cfg, night["student"], night, NEW)


def test_known_probe_spreads_evenly_over_what_was_known():
    known = [exchange(1 + i % 3, None, "rehearse") for i in range(20)]
    probe = known_probe([*EXCHANGES[:3], *known])
    assert probe == known[::3] and len(probe) <= KNOWN_PROBE
    assert known_probe(EXCHANGES[:3]) == []
    assert known_probe(known[:5]) == known[:5]


class Stopped(Exception):
    pass


class MemoryCheckpoint:
    """A mid-phase checkpoint in memory; the first attempt is stopped at its `stop`-th save."""

    def __init__(self, stop):
        self.kept, self.stop = [], stop

    def find(self, abstract_state):
        return self.kept[-1] if self.kept else None

    def is_due(self, done):
        return True

    def keep(self, done, state, facts):
        self.kept.append((done, jax.tree.map(np.array, state), json.loads(json.dumps(facts))))
        if len(self.kept) == self.stop:
            raise Stopped


@pytest.fixture
def following(cfg, night, teacher):
    """(slots, teacher_with_slot): the slots that it was called with, and the student's model with
    them and documents in context."""
    slots, student, documents = [], night["student"], [tokens(12), tokens(5), ()]

    def teacher_with_slot(slot):
        slots.append(jax.tree.map(np.array, slot))
        memory = put_slot(student["memory"], 1, night["index"], slot)
        model = student | {"memory": memory}
        return Teacher(cfg, model, read(cfg, model, documents)[0], known_variables=student)

    return slots, teacher_with_slot


def test_teacher_follows_the_student_by_a_moving_average(cfg, tokenizer, night, following):
    slots, teacher_with_slot = following
    checkpoint = MemoryCheckpoint(stop=None)
    config = seeding(teacher="ema", teacher_decay=0.75, teacher_refresh=2)
    seed_slot(
        cfg,
        tokenizer,
        judge,
        config,
        **night,
        log=lambda *_: None,
        teacher_with_slot=teacher_with_slot,
        mid_phase=checkpoint,
    )
    students = {done: state.slot for done, state, _ in checkpoint.kept}
    expected = jax.tree.map(np.array, take_slot(night["student"]["memory"], 1, 0))
    jax.tree.map(np.testing.assert_array_equal, slots[0], expected)
    assert len(slots) == 3  # before updates 0, 2 and 4
    for slot, done in zip(slots[1:], (2, 4)):
        expected = jax.tree.map(lambda x, s: 0.75 * x + 0.25 * s, expected, students[done])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), slot, expected)
        assert any((a != b).any() for a, b in zip(slot.values(), slots[0].values()))


def test_teacher_that_is_never_refreshed_teaches_as_a_fixed_one(cfg, tokenizer, night, teacher):
    config, options = seeding(teacher="ema", teacher_refresh=6), {"log": lambda *_: None}
    fixed = seed_slot(cfg, tokenizer, judge, seeding(), **night, **options)
    ema = seed_slot(
        cfg, tokenizer, judge, config, **night, **options, teacher_with_slot=lambda slot: teacher
    )
    jax.tree.map(np.testing.assert_array_equal, ema["memory"], fixed["memory"])


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 3])
def test_seed_slot_with_a_following_teacher_resumes_to_the_same_bits(
    cfg, tokenizer, night, following, stop
):
    """Stopped where the teacher moves next, and between two of its moves."""
    config = seeding(
        teacher="ema",
        teacher_decay=0.5,
        teacher_refresh=2,
        known_share=0.4,
        num_prompts=1,
        steps_per_generation=1,
        objective=Objective(),
    )

    def run(mid_phase):
        logged = []
        options = {"log": lambda *entry: logged.append(entry), "mid_phase": mid_phase}
        options["teacher_with_slot"] = following[1]
        return seed_slot(cfg, tokenizer, judge, config, **night, **options), logged

    uninterrupted, logged = run(None)
    checkpoint = MemoryCheckpoint(stop)
    with pytest.raises(Stopped):
        run(checkpoint)
    assert checkpoint.kept[-1][0] == stop
    resumed, logged_again = run(checkpoint)
    jax.tree.map(np.testing.assert_array_equal, resumed, uninterrupted)
    assert logged_again == logged


def test_second_night_with_two_teachers_compiles_nothing(
    cfg, tokenizer, night, following, compilations
):
    config = seeding(teacher="ema", teacher_refresh=2, known_share=0.5)
    options = {"log": lambda *_: None, "teacher_with_slot": following[1]}
    counts, programs = [], seeding_step._cache_size()
    for number in range(2):
        again = night | {"rng": jax.random.key(number)}
        seed_slot(cfg, tokenizer, judge, config, **again, **options)
        counts.append(len(compilations))
    assert counts[0] == counts[1]
    assert seeding_step._cache_size() <= programs + 1  # also where its teacher has moved
