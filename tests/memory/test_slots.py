"""Slots: order, exhaustion, and that one slot at a time is touched."""

import jax
import numpy as np
import pytest

from sleep_jax.memory.slots import SlotsExhausted, init_memory, put_slot, take_slot, unlock, used


@pytest.fixture
def born():
    return init_memory(jax.random.key(0), layers=2, width=64, levels=2, slots=3, rank=5)


def test_at_birth(born):
    memory, slots = born
    for level in ("level_1", "level_2"):
        bank, active = memory["layers"][level], slots["layers"][level]["active"]
        assert bank["gate"].shape == bank["up"].shape == (2, 3, 64, 5)
        assert bank["down"].shape == (2, 3, 5, 64) and not bank["down"].any()
        assert active.shape == (2, 3) and not active.any()
        for part in ("gate", "up"):  # N(0, 1 / d) over 1,920 draws
            np.testing.assert_allclose(np.std(bank[part]), 1 / 8, rtol=0.06)
    weights = [memory["layers"][f"level_{i}"][p] for i in (1, 2) for p in ("gate", "up")]
    assert len({float(w.sum()) for w in weights}) == 4


def test_slots_unlock_in_order_and_levels_apart(born):
    _, slots = born
    for expected in range(3):
        assert (used(slots, 1), used(slots, 2)) == (expected, 0)
        slots, index = unlock(slots, 1)
        assert index == expected
        active = np.asarray(slots["layers"]["level_1"]["active"])
        np.testing.assert_array_equal(active, np.tile(np.arange(3) <= expected, (2, 1)))
    assert not slots["layers"]["level_2"]["active"].any()


def test_unlock_returns_a_new_collection(born):
    _, slots = born
    unlock(slots, 1)
    assert used(slots, 1) == 0


def test_exhaustion_is_an_error_that_changes_nothing(born):
    _, slots = born
    for _ in range(3):
        slots, _ = unlock(slots, 2)
    before = jax.tree.map(np.array, slots)
    with pytest.raises(SlotsExhausted, match=r"memory\.slots=3 .* level 2; start a new run") as e:
        unlock(slots, 2)
    assert (e.value.level, e.value.capacity) == (2, 3)
    jax.tree.map(np.testing.assert_array_equal, slots, before)
    assert unlock(slots, 1)[1] == 0


@pytest.mark.parametrize("index", [1, np.int32(1)])
def test_put_and_take_touch_one_slot(born, index):
    memory, _ = born
    slot = jax.tree.map(lambda x: x + 1, take_slot(memory, 2, index))
    assert {k: v.shape for k, v in slot.items()} == {
        "gate": (2, 64, 5),
        "up": (2, 64, 5),
        "down": (2, 5, 64),
    }
    after = put_slot(memory, 2, index, slot)
    jax.tree.map(np.testing.assert_array_equal, take_slot(after, 2, index), slot)
    for level, other in ((1, 0), (1, 1), (1, 2), (2, 0), (2, 2)):
        jax.tree.map(
            np.testing.assert_array_equal,
            take_slot(after, level, other),
            take_slot(memory, level, other),
        )
    jax.tree.map(
        np.testing.assert_array_equal,
        put_slot(memory, 2, index, take_slot(memory, 2, index)),
        memory,
    )
