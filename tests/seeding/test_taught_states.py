"""The states by which a night is taught: where they are kept, and in which dtype."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sample_exchanges import EXCHANGES, SHAPE, tokens

from sleep_jax.memory.slots import put_slot, take_slot, unlock
from sleep_jax.seeding.consolidate import mean_divergence, seed_slot
from sleep_jax.seeding.host_arrays import HostArrays
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import (
    Teacher,
    make_batch,
    pack_exchanges,
    teacher_hidden,
    teacher_hidden_by_batch,
)
from sleep_jax.seeding.step import init_state, seeding_step
from sleep_jax.seeding.trunk import precompute
from sleep_jax.wake.context import read

SEEDING = SeedingConfig(
    steps=3,
    learning_rate=0.02,
    warmup=0,
    shape=SHAPE,
    num_prompts=0,
    teacher_refresh=1,
)


@pytest.mark.parametrize("teacher", ["self", pytest.param("ema", marks=pytest.mark.slow)])
def test_states_on_disk_teach_the_same_slot_to_the_bit(cfg, variables, trained, tokenizer, teacher):
    slots, index = unlock(variables["slots"], 1)
    student = variables | {"slots": slots}

    def with_slot(slot):
        taught = trained | {"memory": put_slot(trained["memory"], 1, index, slot)}
        return Teacher(cfg, taught, read(cfg, taught, [tokens_read, ()])[0])

    tokens_read, found = tokens(12), []
    for bound in (16.0, 1e-6):  # GiB; the latter are about a thousand bytes
        seeding = dataclasses.replace(SEEDING, teacher=teacher, teacher_memory=bound)
        arrays = seeding.host_arrays()
        seeded = seed_slot(
            cfg,
            tokenizer,
            None,
            seeding,
            student=student,
            teachers=[with_slot(take_slot(trained["memory"], 1, index))],
            level=1,
            index=index,
            exchanges=EXCHANGES,
            rng=jax.random.key(0),
            log=lambda *_: None,
            teacher_with_slot=with_slot if teacher == "ema" else None,
            arrays=arrays,
        )
        found.append(jax.tree.map(np.asarray, seeded["memory"]))
        completions = sum(len(e.completion) for e in EXCHANGES)
        # A teacher that follows is read again into the same arrays.
        assert arrays.in_memory + arrays.on_disk == 4 * cfg.width * completions
        assert bool(arrays.on_disk) == (bound < 1)
    jax.tree.map(np.testing.assert_array_equal, *found)


@pytest.fixture(scope="module")
def narrow(cfg, variables, trained):
    """(config, student, teacher) of a bfloat16 model."""
    narrow = cfg.replace(dtype=jnp.bfloat16)
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: x if path[-1].key == "scale" else x.astype(jnp.bfloat16),
        variables["params"],
    )
    student, taught = variables | {"params": params}, trained | {"params": params}
    context = read(narrow, taught, [tokens(12), tokens(5), ()])[0]
    return narrow, student, Teacher(narrow, taught, context)


def test_states_of_a_bfloat16_model_are_bfloat16_and_lose_nothing(narrow):
    cfg, student, teacher = narrow
    states = precompute(cfg, student, [teacher], EXCHANGES, SHAPE)
    assert {x.teacher.dtype for x in states} == {np.dtype(jnp.bfloat16)}
    wide = [x._replace(teacher=y) for x, y in zip(states, hidden_in_float32(cfg, teacher))]
    assert any((x.teacher != y.teacher).any() for x, y in zip(states, wide))  # they are rounded
    optimizer, results = optax.adam(0.1), []
    for kept in (states, wide):
        rows = pack_exchanges(EXCHANGES, SHAPE)[: SHAPE.batch_size]
        batch = make_batch(EXCHANGES, kept, rows, SHAPE)
        state = init_state(take_slot(student["memory"], 1, 0), optimizer)
        state, _ = seeding_step(cfg, Objective(), optimizer, 1, np.int32(0), state, student, batch)
        results.append(jax.tree.map(np.asarray, state.slot))
        results[-1]["kl"] = mean_divergence(cfg, student, EXCHANGES, kept, [teacher], SHAPE)
    jax.tree.map(np.testing.assert_array_equal, *results)


def hidden_in_float32(cfg, teacher):
    """`teacher_hidden` before it is rounded."""
    out = dict(teacher_hidden_by_batch(cfg, teacher.variables, teacher.context, EXCHANGES))
    assert {x.dtype for x in out.values()} == {np.dtype(np.float32)}
    return [out[i] for i in range(len(EXCHANGES))]


def test_teacher_hidden_is_no_view_of_its_batch(cfg, trained):
    context = read(cfg, trained, [tokens(12), tokens(5), ()])[0]
    for e, hidden in zip(EXCHANGES, teacher_hidden(cfg, trained, context, EXCHANGES)):
        assert hidden.base is None and hidden.shape == (len(e.completion), cfg.width)


def test_states_of_several_teachers_lie_side_by_side_wherever_they_are(cfg, variables, trained):
    context = read(cfg, trained, [tokens(12), tokens(5), ()])[0]
    teachers = [Teacher(cfg, x, context, weight=0.5) for x in (trained, variables)]
    alone = [precompute(cfg, variables, [t], EXCHANGES, SHAPE) for t in teachers]
    for bound in (np.inf, 0):
        both = precompute(cfg, variables, teachers, EXCHANGES, SHAPE, arrays=HostArrays(bound))
        for got, *parts in zip(both, *alone):
            want = np.concatenate([x.teacher for x in parts], axis=-1)
            np.testing.assert_array_equal(got.teacher, want)
