"""Slots that begin as their sender: which units these are, and what the slot then computes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sample_exchanges import EXCHANGES, SHAPE

from sleep_jax.config import default
from sleep_jax.config import read as read_config
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory, put_slot, put_wake, take_slot, take_wake, unlock
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.experts import expert
from sleep_jax.seeding import consolidate
from sleep_jax.seeding.gate import Gate
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sender_units import largest_units, slot_from_sender, unit_sizes, units_of
from sleep_jax.seeding.sequences import Teacher
from sleep_jax.seeding.transaction import MemoryState, begin_consolidation
from sleep_jax.wake.context import read
from sleep_jax.wake.stream import WakeConfig

LEVELS = (LevelConfig(period=1, slots=2, rank=3), LevelConfig(slots=2, rank=8))
LENGTH = 16


@pytest.fixture(scope="module")
def sender(cfg, variables):
    """(cfg, collections) of a model whose level 1 has six units: its wake weights and a slot; what
    lies in the slot that is not active is NaN."""
    cfg = cfg.replace(memory=MemoryConfig(LEVELS))
    memory, slots = init_memory(jax.random.key(0), cfg.memory, layers=cfg.layers, width=cfg.width)
    rng = np.random.default_rng(0)

    def filled(weights):
        return jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), weights)

    memory = put_wake(memory, filled(take_wake(memory)))
    slots, index = unlock(slots, 1)
    memory = put_slot(memory, 1, index, filled(take_slot(memory, 1, index)))
    memory = put_slot(memory, 1, 1, jax.tree.map(lambda x: x * jnp.nan, take_slot(memory, 1, 1)))
    return cfg, variables | {"memory": memory, "slots": slots}


def test_largest_units_take_the_first_places_of_a_slot():
    def units(count):  # column j of gate is j, row j of down is -j
        gate = jnp.broadcast_to(jnp.arange(1.0, count + 1), (1, 4, count))
        return {"gate": gate, "down": -gate.swapaxes(1, 2)}

    slot = {"gate": jnp.zeros((1, 4, 2)), "down": jnp.zeros((1, 2, 4))}
    got = largest_units(units(3), jnp.asarray([[1.0, 5.0, 3.0]]), slot)
    np.testing.assert_array_equal(got["gate"][0, 0], [2, 3])
    np.testing.assert_array_equal(got["down"][0, :, 0], [-2, -3])
    got = largest_units(units(1), jnp.ones((1, 1)), slot)
    np.testing.assert_array_equal(got["gate"][0, 0], [1, 0])
    np.testing.assert_array_equal(got["down"][0, :, 0], [-1, 0])


def test_unit_sizes_are_what_units_add_to_real_tokens(sender):
    cfg, teacher = sender
    tokens = np.random.default_rng(1).integers(3, 97, (2, 5)).astype(np.int32)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
    units = units_of(teacher, 1)
    got = unit_sizes(cfg, teacher, 1, units, tokens, mask)
    _, sown = Decoder(cfg).apply(teacher, tokens, mask, mutable=["intermediates"])
    [inputs] = sown["intermediates"]["layers"]["level_1"]["input"]
    for layer, unit in np.ndindex(2, 6):
        weights = {name: w[layer] for name, w in units.items()}
        weights = {
            name: w[unit : unit + 1] if name == "down" else w[:, unit : unit + 1]
            for name, w in weights.items()
        }
        added = np.asarray(expert(inputs[layer], weights), np.float64) * mask[..., None]
        np.testing.assert_allclose(got[layer, unit], np.sum(added**2), rtol=1e-4)
    np.testing.assert_array_equal(got[:, 6:], 0)


def begun(cfg, collections, level: int):
    """The consolidation of a level into the next one."""
    state = MemoryState(collections["memory"], collections["slots"])
    rng = jax.random.key(1)
    return begin_consolidation(cfg, WakeConfig(), state, level, "commit_then_clear", rng)


def test_student_with_room_for_all_units_of_its_sender_is_its_teacher(sender, logits):
    cfg, teacher = sender
    transaction = begun(cfg, teacher, 1)
    student, index = transaction.student, transaction.index
    empty = take_slot(student.memory, 2, index)
    slot = slot_from_sender(cfg, teacher, 2, empty, EXCHANGES, LENGTH)
    filled = student.replace(memory=put_slot(student.memory, 2, index, slot))
    tokens = np.random.default_rng(1).integers(3, 97, (2, 9)).astype(np.int32)
    ones, params = np.ones_like(tokens), teacher["params"]
    want = logits(cfg, teacher, tokens, ones)
    np.testing.assert_allclose(
        logits(cfg, filled.variables(params), tokens, ones), want, rtol=1e-4, atol=1e-4
    )
    assert np.abs(logits(cfg, student.variables(params), tokens, ones) - want).max() > 0.1
    np.testing.assert_array_equal(slot["gate"][..., 6:], empty["gate"][..., 6:])


@pytest.mark.parametrize(
    "level, slot_init, is_begun", [(1, "sender", True), (1, "zero", False), (0, "sender", False)]
)
def test_consolidation_begins_a_slot_as_its_sender_where_that_is_a_level(
    sender, tokenizer, monkeypatch, level, slot_init, is_begun
):
    cfg, teacher = sender
    teacher = teacher | {"memory": jax.tree.map(jnp.nan_to_num, teacher["memory"])}
    transaction = begun(cfg, teacher, level)
    monkeypatch.setattr(consolidate, "seed_slot", lambda *_, student, **__: student)
    state, _ = consolidate.run_consolidation(
        cfg,
        teacher["params"],
        tokenizer,
        None,
        SeedingConfig(shape=SHAPE, slot_init=slot_init),
        Gate(divergence=math.inf, anchors=math.inf),
        transaction,
        teachers=[Teacher(cfg, teacher, read(cfg, teacher, [(5, 6), (7,), ()])[0])],
        exchanges=EXCHANGES,
        probe=EXCHANGES,
        anchors=lambda variables: 1.0,
        rng=jax.random.key(0),
        log=lambda step, figures: None,
    )
    got = take_slot(state.memory, level + 1, transaction.index)
    new = [e for e in EXCHANGES if not e.is_known]
    empty = take_slot(transaction.student.memory, level + 1, transaction.index)
    want = slot_from_sender(cfg, teacher, 2, empty, new, SHAPE.max_length) if is_begun else empty
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_slots_of_a_single_level_cannot_begin_as_their_sender():
    c = default()
    c.seeding.slot_init = "sender"
    with pytest.raises(ValueError, match=r"seeding\.slot_init='sender' with one level of memory"):
        read_config(c)
