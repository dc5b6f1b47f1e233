"""Slots and wake weights: order, exhaustion, and that only what is named is touched."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import (
    SlotsExhausted,
    capacity,
    clear_experts,
    clear_wake,
    grown,
    init_expert,
    init_memory,
    put_slot,
    put_wake,
    take_slot,
    take_wake,
    unlock,
    used,
)

SHAPES = {
    "swiglu": {"gate": (64, 5), "up": (64, 5), "down": (5, 64)},
    "bottleneck": {"gate": (64, 5), "down": (5, 64)},
}
ROUTING = {"none": {}, "sigmoid": {"key": (64,), "bias": ()}}


@pytest.fixture
def initial():
    levels = (LevelConfig(period=2, slots=3, rank=5), LevelConfig(slots=3, rank=5))
    return init_memory(jax.random.key(0), MemoryConfig(levels, unit="episodes"), layers=2, width=64)


def test_init_memory_has_zero_outputs_and_no_active_slot(initial):
    memory, slots = initial
    for level in ("level_1", "level_2"):
        bank, active = memory["layers"][level]["experts"], slots["layers"][level]["active"]
        assert bank["gate"].shape == bank["up"].shape == (2, 3, 64, 5)
        assert bank["down"].shape == (2, 3, 5, 64) and not bank["down"].any()
        assert active.shape == (2, 3) and not active.any()
        for part in ("gate", "up"):  # N(0, 1 / d) over 1,920 draws
            np.testing.assert_allclose(np.std(bank[part]), 1 / 8, rtol=0.06)
    weights = [memory["layers"][f"level_{i}"]["experts"][p] for i in (1, 2) for p in ("gate", "up")]
    assert len({float(w.sum()) for w in weights}) == 4


def test_unlock_takes_slots_in_order_for_each_level(initial):
    _, slots = initial
    for expected in range(3):
        assert (used(slots, 1), used(slots, 2)) == (expected, 0)
        slots, index = unlock(slots, 1)
        assert index == expected
        active = np.asarray(slots["layers"]["level_1"]["active"])
        np.testing.assert_array_equal(active, np.tile(np.arange(3) <= expected, (2, 1)))
    assert not slots["layers"]["level_2"]["active"].any()


def test_unlock_returns_a_new_collection(initial):
    _, slots = initial
    unlock(slots, 1)
    assert used(slots, 1) == 0


def test_unlock_of_a_full_level_raises_and_changes_nothing(initial):
    _, slots = initial
    for _ in range(3):
        slots, _ = unlock(slots, 2)
    before = jax.tree.map(np.array, slots)
    with pytest.raises(SlotsExhausted, match=r"slots=3 of level 2 .*; set memory.on_full") as e:
        unlock(slots, 2)
    assert (e.value.level, e.value.capacity) == (2, 3)
    jax.tree.map(np.testing.assert_array_equal, slots, before)
    assert unlock(slots, 1)[1] == 0


@pytest.mark.parametrize("index", [1, np.int32(1)])
def test_put_slot_and_take_slot_touch_one_slot(initial, index):
    memory, _ = initial
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


def test_grown_memory_has_new_slots_at_the_end_and_the_bits_of_the_old_ones(initial):
    memory, slots = initial
    slots, _ = unlock(slots, 2)
    levels = (LevelConfig(period=2, slots=3, rank=5), LevelConfig(slots=5, rank=5))
    config, key = MemoryConfig(levels, unit="episodes"), jax.random.key(7)
    after, masks = grown(key, config, memory, slots, 64)
    assert after["layers"]["level_1"] is memory["layers"]["level_1"]
    assert masks["layers"]["level_1"] is slots["layers"]["level_1"]
    assert capacity(masks, 2) == 5 and used(masks, 2) == 1
    new = init_expert(jax.random.fold_in(jax.random.fold_in(key, 2), 3), config, 2, 64, (2, 2))
    old = memory["layers"]["level_2"]["experts"]
    for name, leaf in after["layers"]["level_2"]["experts"].items():
        np.testing.assert_array_equal(leaf[:, :3], old[name])
        np.testing.assert_array_equal(leaf[:, 3:], new[name])
    assert not after["layers"]["level_2"]["experts"]["down"].any()
    again, _ = grown(key, config, after, masks, 64)
    assert again is after


def test_grown_memory_gives_a_bank_to_a_level_without_one():
    levels = (LevelConfig(period=2, slots=0), LevelConfig(slots=3))
    bare = MemoryConfig(levels, unit="episodes", from_context=False)
    memory, slots = init_memory(jax.random.key(0), bare, layers=3, width=64)
    levels = (LevelConfig(period=2, slots=2), LevelConfig(slots=3))
    full = MemoryConfig(levels, unit="episodes", from_context=False)
    wanted = jax.eval_shape(lambda: init_memory(jax.random.key(0), full, layers=3, width=64))
    got = grown(jax.random.key(1), full, memory, slots, 64)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), got) == jax.tree.map(
        lambda x: (x.shape, x.dtype), wanted
    )
    np.testing.assert_array_equal(
        got[0]["layers"]["level_1"]["wake"]["up"], memory["layers"]["level_1"]["wake"]["up"]
    )


@pytest.fixture(params=itertools.product(SHAPES, ROUTING), ids="-".join, scope="module")
def used_memory(request):
    """(config, memory, slots) of three levels, nothing of them in its initial form."""
    expert, router = request.param
    levels = (
        LevelConfig(period=2, slots=3, rank=5),
        LevelConfig(period=4, slots=3, rank=5),
        LevelConfig(slots=3, rank=5),
    )
    config = MemoryConfig(levels, unit="episodes", expert=expert, router=router)
    memory, slots = init_memory(jax.random.key(0), config, layers=2, width=64)
    memory = jax.tree.map(lambda x: x + 1, memory)
    for level in (1, 2, 2, 3):
        slots, _ = unlock(slots, level)
    return config, memory, slots


def shapes(weights):
    return {name: leaf.shape for name, leaf in weights.items()}


def same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def assert_initial(weights, before):
    """down = 0, the rest drawn anew from N(0, 1 / d); `before` is the first draw plus 1."""
    assert not np.any(weights["down"])
    assert np.all(weights.get("key", 0) == 0) and np.all(weights.get("bias", 3) == 3)
    parts = [part for part in ("gate", "up") if part in weights]
    for part in parts:
        np.testing.assert_allclose(np.std(weights[part]), 1 / 8, rtol=0.15)
        assert abs(np.mean(weights[part])) < 0.02
        assert np.mean(np.isclose(weights[part], before[part] - 1, atol=1e-6)) < 0.01
    numbers = np.concatenate([np.ravel(weights[part]) for part in parts])
    assert len(np.unique(numbers)) > 0.99 * len(numbers)  # no two slots or layers alike


def test_init_memory_leaves_of_each_expert_and_router(used_memory):
    config, memory, _ = used_memory
    unit, routing = SHAPES[config.expert], ROUTING[config.router]
    slot = {name: (2, *shape) for name, shape in (unit | routing).items()}
    for level in (1, 2, 3):
        assert shapes(take_slot(memory, level, 0)) == slot
    # Wake weights have no gate of their own, and the slowest level has none at all.
    wake = {name: (2, *shape) for name, shape in unit.items()}
    assert {name: shapes(w) for name, w in take_wake(memory).items()} == {
        "level_1": wake,
        "level_2": wake,
    }


def test_put_wake_and_take_wake_touch_nothing_else(used_memory):
    _, memory, _ = used_memory
    new = jax.tree.map(lambda x: -x, take_wake(memory))
    after = put_wake(memory, {"level_2": new["level_2"]})
    same(take_wake(after), {"level_1": take_wake(memory)["level_1"], "level_2": new["level_2"]})
    for name, level in memory["layers"].items():
        same(after["layers"][name]["experts"], level["experts"])
    same(put_wake(memory, new), put_wake(after, {"level_1": new["level_1"]}))
    same(put_wake(memory, take_wake(memory)), memory)
    same(put_wake(memory, {}), memory)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_clear_experts_restores_the_initial_form(used_memory, level):
    config, memory, slots = used_memory
    name, key = f"level_{level}", jax.random.key(9)
    before = jax.tree.map(np.array, (memory, slots))
    after, cleared = clear_experts(key, config, memory, slots, level)
    same((memory, slots), before)
    bank, old = after["layers"][name]["experts"], memory["layers"][name]["experts"]
    assert shapes(bank) == shapes(old)
    assert_initial(bank, old)
    assert used(cleared, level) == 0 and unlock(cleared, level)[1] == 0
    # All else is bit-identical: other levels, this one's wake weights, which layers carry.
    same(after, {"layers": memory["layers"] | {name: memory["layers"][name] | {"experts": bank}}})
    idle = {"active": jnp.zeros_like(slots["layers"][name]["active"])}
    same(cleared, {"layers": slots["layers"] | {name: slots["layers"][name] | idle}})
    another, _ = clear_experts(jax.random.key(8), config, memory, slots, level)
    assert np.all(another["layers"][name]["experts"]["gate"] != bank["gate"])


@pytest.mark.parametrize("level", [1, 2])
def test_clear_wake_restores_the_initial_form(used_memory, level):
    config, memory, _ = used_memory
    name = f"level_{level}"
    after = clear_wake(jax.random.key(9), config, memory, level)
    wake, old = after["layers"][name]["wake"], memory["layers"][name]["wake"]
    assert shapes(wake) == shapes(old)
    assert_initial(wake, old)
    same(after, put_wake(memory, {name: wake}))


def test_clear_experts_of_a_level_without_slots_changes_nothing():
    levels = (LevelConfig(period=2, slots=0, rank=5), LevelConfig(slots=3, rank=5))
    config = MemoryConfig(levels, unit="episodes", from_context=False)
    memory, slots = init_memory(jax.random.key(0), config, layers=2, width=64)
    assert set(memory["layers"]["level_1"]) == {"wake"} and used(slots, 1) == 0
    after, cleared = clear_experts(jax.random.key(1), config, memory, slots, 1)
    same((after, cleared), (memory, slots))
    with pytest.raises(SlotsExhausted, match="slots=0 of level 1"):
        unlock(slots, 1)


@pytest.mark.parametrize(
    ("layers", "depth", "carries"),
    [
        ("all", 2, [True, True]),
        ("last_quarter", 8, [True, True]),
        ((3,), 5, [True, False]),  # layers 0 to 2, below them all, have no entry
        ((4, 2), 5, [True, False, True]),
    ],
)
def test_unlock_activates_layers_with_memory_only(layers, depth, carries):
    levels = (LevelConfig(period=2, slots=3, rank=5), LevelConfig(slots=3, rank=5))
    config = MemoryConfig(levels, unit="episodes", layers=layers)
    memory, slots = init_memory(jax.random.key(0), config, layers=depth, width=64)
    assert {leaf.shape[0] for leaf in jax.tree.leaves((memory, slots))} == {len(carries)}
    for index in (0, 1):
        slots, unlocked = unlock(slots, 2)
        assert (unlocked, used(slots, 2), used(slots, 1)) == (index, index + 1, 0)
    active = np.asarray(slots["layers"]["level_2"]["active"])
    np.testing.assert_array_equal(active.T, [carries, carries, [False] * len(carries)])
    _, slots = clear_experts(jax.random.key(1), config, memory, slots, 2)
    active = np.asarray(unlock(slots, 2)[0]["layers"]["level_2"]["active"])
    np.testing.assert_array_equal(active[:, 0], carries)


def test_level_without_slots_has_no_mask_and_raises():
    levels = (LevelConfig(period=2, slots=0), LevelConfig(slots=3))
    config = MemoryConfig(levels, unit="episodes", from_context=False)
    memory, slots = init_memory(jax.random.key(0), config, layers=2, width=64)
    assert all(leaf.size for leaf in jax.tree.leaves((memory, slots)))
    assert used(slots, 1) == 0
    with pytest.raises(SlotsExhausted, match="slots=0 of level 1"):
        unlock(slots, 1)
    cleared = clear_experts(jax.random.key(1), config, memory, slots, 1)
    assert jax.tree.structure(cleared) == jax.tree.structure((memory, slots))
