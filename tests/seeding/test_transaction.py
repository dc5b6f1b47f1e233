"""Consolidation as a transaction: teacher and student, what changes and what does not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import (
    SlotsExhausted,
    init_memory,
    put_slot,
    take_slot,
    take_wake,
    unlock,
    used,
)
from sleep_jax.models.decoder import Decoder
from sleep_jax.seeding.consolidate import SeedingConfig, seed_slot
from sleep_jax.seeding.gate import Gate, top_k_hint
from sleep_jax.seeding.imitation import ImitationConfig
from sleep_jax.seeding.router_key import init_router_key
from sleep_jax.seeding.sequences import BatchShape, Exchange, Teacher
from sleep_jax.seeding.step import Objective
from sleep_jax.seeding.transaction import (
    PROTOCOLS,
    MemoryState,
    begin_consolidation,
    begin_merge,
    check_capacity,
)
from sleep_jax.wake.context import read
from sleep_jax.wake.stream import WakeConfig, init_wake, read_episode

WAKE = WakeConfig(context=32)
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(1, 97, (2, 12)).astype(np.int32)
LEVELS = (
    LevelConfig(period=1, slots=1, rank=4, learning_rate=2.0),
    LevelConfig(period=2, slots=2, rank=4, learning_rate=2.0),
    LevelConfig(slots=3, rank=4),
)
KEY = jax.random.key(9)


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b))


def noise(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), tree)


@pytest.fixture(scope="module")
def chain(cfg):
    """A decoder with three levels whose periods count episodes."""
    return cfg.replace(memory=MemoryConfig(LEVELS, unit="episodes", stride=12))


@pytest.fixture(scope="module")
def read_once(chain, variables):
    """Level 1 has an expert of an earlier night and has read one episode: its update is pending."""
    memory, slots = init_memory(jax.random.key(3), chain.memory, layers=2, width=32)
    slots, index = unlock(slots, 1)
    memory = put_slot(memory, 1, index, noise(take_slot(memory, 1, index), 1))
    state = MemoryState(memory, slots, init_wake(chain, WAKE, memory))
    params = variables["params"]
    wake, _ = read_episode(chain, WAKE, state.variables(params), state.wake, TOKENS[0])
    return state.with_wake_state(wake)


@pytest.fixture(scope="module")
def logits_of(chain, variables, logits):
    """Logits of a state."""
    return lambda state: np.asarray(logits(chain, state.variables(variables["params"]), TOKENS))


def frozen(before, after, level, index):
    """Every leaf of memory but the levels that took part is bit-identical."""
    for number in (1, 2, 3):
        for slot in range(LEVELS[number - 1].slots):
            if (number == level and slot == index) or number == level - 1:
                continue
            assert equal(take_slot(before, number, slot), take_slot(after, number, slot))


def test_commit_then_clear_teacher_and_student(chain, read_once, logits_of):
    """The teacher is the sender after its update; the student is the sender cleared."""
    t = begin_consolidation(chain, WAKE, read_once, 1, "commit_then_clear", KEY)
    assert (t.level, t.index) == (2, 0) and t.before is read_once
    old, new = (take_wake(s.memory)["level_1"] for s in (read_once, t.teacher))
    assert not old["down"].any() and new["down"].any()
    # The teacher has its expert, the student neither that nor the wake weights.
    assert used(t.teacher.slots, 1) == 1 and used(t.student.slots, 1) == 0
    assert not take_wake(t.student.memory)["level_1"]["down"].any()
    assert not take_slot(t.student.memory, 1, 0)["down"].any()
    assert np.abs(logits_of(t.teacher) - logits_of(t.student)).max() > 1e-3
    # Eq. 2 has been applied once; the window is open again.
    state = t.student.wake
    assert int(state.updates["level_1"]) == 1 and not state.is_due["level_1"]
    assert not any(g.any() for g in jax.tree.leaves(state.gradient["level_1"]))
    assert equal(state.wake, take_wake(t.student.memory))
    # Level 2 is in the midst of its period and goes on gathering.
    assert equal(state.gradient["level_2"], read_once.wake.gradient["level_2"])


def test_paper_protocol_teacher_and_student(chain, read_once):
    """The teacher is the sender before its update; the student has the update, not the experts."""
    t = begin_consolidation(chain, WAKE, read_once, 1, "paper", KEY)
    committed = begin_consolidation(chain, WAKE, read_once, 1, "commit_then_clear", KEY).teacher
    assert equal(t.teacher, read_once)
    assert equal(take_wake(t.student.memory), take_wake(committed.memory))
    assert used(t.student.slots, 1) == 0 and used(t.student.slots, 2) == 1
    with pytest.raises(ValueError, match="protocol='letter'; choose from commit_then_clear, paper"):
        begin_consolidation(chain, WAKE, read_once, 1, "letter", KEY)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_moments_of_a_cleared_level_are_forgotten(chain, read_once, protocol):
    """Those of weights that stay, and of other levels, are kept."""
    levels = [dataclasses.replace(level, optimizer="adam") for level in LEVELS[:2]]
    cfg = chain.replace(
        memory=dataclasses.replace(chain.memory, levels=(*levels, LEVELS[2])),
    )
    initial = init_wake(cfg, WAKE, read_once.memory).moments
    held = jax.tree.map(lambda x: x + 1, initial)
    state = read_once.replace(wake=read_once.wake.replace(moments=held))
    t = begin_consolidation(cfg, WAKE, state, 1, protocol, KEY)
    assert int(t.student.wake.moments["level_1"].count) == (0 if protocol != "paper" else 2)
    is_forgotten = equal(t.student.wake.moments["level_1"], initial["level_1"])
    assert is_forgotten == (protocol == "commit_then_clear")
    assert equal(t.student.wake.moments["level_2"], held["level_2"])


def test_commit_changes_only_the_new_slot_and_rollback_nothing(chain, read_once):
    before = jax.tree.map(np.array, read_once)
    t = begin_consolidation(chain, WAKE, read_once, 1, "commit_then_clear", KEY)
    seeded = noise(take_slot(t.student.memory, 2, t.index), 5)
    after = t.commit(put_slot(t.student.memory, 2, t.index, seeded))
    assert equal(take_slot(after.memory, 2, 0), seeded)
    frozen(before.memory, after.memory, 2, 0)
    assert equal(after.wake, t.student.wake) and used(after.slots, 2) == 1
    # Rolling back is keeping the state before, which is unchanged.
    assert equal(t.before, before)


def test_consolidation_of_the_context_clears_nothing(chain, read_once, logits_of):
    emptied = begin_consolidation(chain, WAKE, read_once, 1, "commit_then_clear", KEY).student
    t = begin_consolidation(chain, WAKE, emptied, 0, "commit_then_clear", KEY)
    assert (t.level, t.index) == (1, 0)
    assert t.teacher is emptied and equal(t.student.memory, emptied.memory)
    np.testing.assert_array_equal(logits_of(t.student), logits_of(t.teacher))


def test_slot_with_the_wake_weights_makes_the_student_its_teacher(chain, read_once, logits_of):
    """A slot that is a copy of the wake weights makes the student its teacher."""
    memory, slots = init_memory(jax.random.key(3), chain.memory, layers=2, width=32)
    state = MemoryState(memory, slots, None).with_wake_state(read_once.wake)
    t = begin_consolidation(chain, WAKE, state, 1, "commit_then_clear", KEY)
    assert np.abs(logits_of(t.teacher) - logits_of(t.student)).max() > 1e-3
    copied = t.commit(
        put_slot(t.student.memory, 2, t.index, take_wake(t.teacher.memory)["level_1"])
    )
    np.testing.assert_allclose(logits_of(copied), logits_of(t.teacher), rtol=0, atol=1e-5)


def test_slow_pairs_first_moves_knowledge_up_one_level_a_night(chain, read_once):
    """When 2 -> 3 and 1 -> 2 sleep in one night, what level 1 hands over stays in level 2."""
    state = read_once.wake.replace(
        is_due=jax.tree.map(lambda x: jnp.ones_like(x), read_once.wake.is_due)
    )
    slow = begin_consolidation(
        chain, WAKE, read_once.with_wake_state(state), 2, "commit_then_clear", KEY
    )
    assert slow.student.wake.is_due == {"level_1": True, "level_2": False}
    fast = begin_consolidation(chain, WAKE, slow.student, 1, "commit_then_clear", KEY)
    assert [used(fast.student.slots, level) for level in (1, 2, 3)] == [0, 1, 1]


def test_check_capacity_by_policy(chain, read_once):
    slots = read_once.slots
    policies = {p: dataclasses.replace(chain.memory, on_full=p) for p in ("error", "skip", "merge")}
    assert {p: check_capacity(m, slots, 2) for p, m in policies.items()} == dict.fromkeys(
        policies, "seed"
    )
    for _ in range(2):
        slots, _ = unlock(slots, 2)
    assert check_capacity(policies["skip"], slots, 2) == "skip"
    for policy in ("error", "merge"):
        with pytest.raises(SlotsExhausted, match="slots=2 of level 2 are all in use"):
            check_capacity(policies[policy], slots, 2)
    for _ in range(2):
        slots, _ = unlock(slots, 3)
    assert check_capacity(policies["merge"], slots, 3) == "merge"
    with pytest.warns(UserWarning, match="level 3, the slowest, will have 3 of its 3 slots in use"):
        assert check_capacity(policies["error"], slots, 3) == "seed"
    with pytest.raises(SlotsExhausted):
        begin_consolidation(chain, WAKE, read_once.replace(slots=slots), 1, "paper", KEY)


def test_on_full_reuse_seeds_the_last_slot_again(chain, read_once, logits_of):
    """Without expansion: the student begins with what the slot holds, nothing is unlocked."""
    cfg = chain.replace(memory=dataclasses.replace(chain.memory, on_full="reuse"))
    slots, memory = read_once.slots, read_once.memory
    for seed in (1, 2):
        t = begin_consolidation(
            cfg, WAKE, read_once.replace(slots=slots), 1, "commit_then_clear", KEY
        )
        assert t.index == seed - 1 and not t.is_reuse  # as long as there is a free one
        slots, index = unlock(slots, 2)
        memory = put_slot(memory, 2, index, noise(take_slot(memory, 2, index), seed))
    state = read_once.replace(memory=memory, slots=slots)
    assert check_capacity(cfg.memory, slots, 2) == "seed"
    t = begin_consolidation(cfg, WAKE, state, 1, "commit_then_clear", KEY)
    assert t.is_reuse and (t.level, t.index) == (2, 1)
    assert used(t.student.slots, 2) == 2
    assert equal(take_slot(t.student.memory, 2, 1), take_slot(memory, 2, 1))
    seeded = noise(take_slot(memory, 2, 1), 5)
    after = t.commit(put_slot(t.student.memory, 2, 1, seeded))
    assert equal(take_slot(after.memory, 2, 1), seeded) and equal(t.before, state)
    frozen(memory, after.memory, 2, 1)


def test_merge_leaves_one_slot_in_use(chain, read_once, logits_of):
    slots, memory = read_once.slots, read_once.memory
    for seed in (1, 2):
        slots, index = unlock(slots, 3)
        memory = put_slot(memory, 3, index, noise(take_slot(memory, 3, index), seed))
    state = read_once.replace(memory=memory, slots=slots)
    t = begin_merge(chain, state, 3, KEY)
    assert t.is_merge and (t.level, t.index) == (3, 2) and t.teacher is state
    active = np.asarray(t.student.slots["layers"]["level_3"]["active"])
    np.testing.assert_array_equal(active, [[False, False, True]] * 2)
    seeded = noise(take_slot(t.student.memory, 3, t.index), 5)
    trained = t.student.replace(memory=put_slot(t.student.memory, 3, t.index, seeded))
    after = t.commit(trained.memory)
    # The seeded slot has moved to the front with the same logits, and the others are free.
    assert used(after.slots, 3) == 1 and equal(take_slot(after.memory, 3, 0), seeded)
    np.testing.assert_allclose(logits_of(after), logits_of(trained), rtol=0, atol=1e-4)
    assert not take_slot(after.memory, 3, 2)["down"].any()
    for level, slot in ((1, 0), (2, 0), (2, 1)):
        assert equal(take_slot(memory, level, slot), take_slot(after.memory, level, slot))


def test_gate_rejection_reasons():
    gate = Gate(divergence=0.5, anchors=0.1)
    assert gate.rejection_reason(2.0, 1.0, 10.0, 11.0) is None
    assert "from 2 to 1.01, above gate.divergence=0.5" in gate.rejection_reason(
        2.0, 1.01, 10.0, 10.0
    )
    assert "stayed 2: nothing was learnt" in Gate(float("inf"), 0.1).rejection_reason(
        2.0, 2.0, 1.0, 1.0
    )
    assert "from 10 to 11.1" in gate.rejection_reason(2.0, 1.0, 10.0, 11.1)
    assert gate.rejection_reason(2.0, float("nan"), 10.0, 10.0)
    assert gate.rejection_reason(2.0, 1.0, 10.0, float("nan"))
    with pytest.raises(ValueError, match=r"gate\.anchors=0; give a number above 0"):
        Gate(anchors=0)


def test_top_k_hint_where_slots_exceed_top_k():
    memory = MemoryConfig((LevelConfig(slots=4),), router="sigmoid", top_k=2)
    assert "selects memory.top_k=2 of 3 slots" in top_k_hint(memory, 3)
    assert top_k_hint(memory, 2) == top_k_hint(MemoryConfig((LevelConfig(slots=4),)), 3) == ""


def test_init_router_key_is_the_mean_hidden_state_of_the_replay(
    chain, read_once, variables, logits_of
):
    cfg = chain.replace(memory=dataclasses.replace(chain.memory, router="sigmoid"))
    memory, slots = init_memory(jax.random.key(3), cfg.memory, layers=2, width=32)
    slots, index = unlock(slots, 2)
    student = MemoryState(memory, slots)
    mask = np.arange(12)[None] < np.array([[12], [7]])
    updated = init_router_key(
        cfg, variables["params"], student, 2, index, TOKENS, mask.astype(np.int32), [False, True]
    )
    slot, initial = take_slot(updated.memory, 2, index), take_slot(memory, 2, index)
    assert equal(
        {k: slot[k] for k in slot if k != "key"}, {k: initial[k] for k in initial if k != "key"}
    )
    np.testing.assert_array_equal(slot["bias"], [3.0, 3.0])
    # Layer 0 sees the same in a decoder of one layer.
    _, sown = Decoder(cfg.replace(remat="none", scan_layers=True)).apply(
        student.variables(variables["params"]),
        TOKENS,
        mask.astype(np.int32),
        mutable=["intermediates"],
    )
    [h] = sown["intermediates"]["layers"]["level_2"]["input"]
    np.testing.assert_allclose(slot["key"], np.asarray(h)[:, mask].mean(1), rtol=1e-4, atol=1e-5)
    # The number of batches does not matter.
    six = np.tile(TOKENS, (3, 1)), np.tile(mask, (3, 1)).astype(np.int32)
    again = init_router_key(cfg, variables["params"], student, 2, index, *six, [False] * 6)
    np.testing.assert_allclose(take_slot(again.memory, 2, index)["key"], slot["key"], rtol=1e-4)
    # Without a router the student is unchanged.
    no_router = init_router_key(
        chain, variables["params"], read_once, 2, 0, TOKENS, mask, [False, True]
    )
    assert no_router is read_once


@pytest.mark.slow
def test_consolidations_after_the_second_compile_nothing(chain, variables, logits, compilations):
    """All days and nights run the programs of the first two."""
    params = variables["params"]
    exchanges = [
        Exchange(None, (3, 4), (3, 4), tuple(range(5, 5 + n)), "answer") for n in (4, 6, 5)
    ]
    seeding = SeedingConfig(
        steps=2,
        learning_rate=1e-2,
        warmup=1,
        shape=BatchShape(batch_size=1, max_length=32, max_target_length=16),
        num_prompts=0,
        steps_per_generation=1,
        rollout_start=1.0,
        objective=Objective(alpha=1.0, lam=0.0),
        imitation=ImitationConfig(),
    )
    memory = dataclasses.replace(
        chain.memory, levels=(*LEVELS[:1], LevelConfig(slots=12, rank=4)), on_full="error"
    )
    cfg = chain.replace(memory=memory)
    initial, slots = init_memory(jax.random.key(3), memory, layers=2, width=32)
    state = MemoryState(initial, slots, init_wake(cfg, WAKE, initial))
    for night in range(12):
        wake, _ = read_episode(cfg, WAKE, state.variables(params), state.wake, TOKENS[0])
        state = state.with_wake_state(wake)
        t = begin_consolidation(cfg, WAKE, state, 1, "commit_then_clear", KEY)
        teacher = t.teacher.variables(params)
        seeded = seed_slot(
            cfg,
            None,
            None,
            dataclasses.replace(seeding),
            student=t.student.variables(params),
            teachers=[Teacher(cfg, teacher, read(cfg, teacher, [()])[0])],
            level=2,
            index=t.index,
            exchanges=exchanges,
            rng=jax.random.key(night),
            log=lambda *_: None,
        )
        state = t.commit(seeded["memory"])
        logits(cfg, state.variables(params), TOKENS)
        if night == 1:
            compilations.clear()
    assert used(state.slots, 2) == 12
    assert not compilations
