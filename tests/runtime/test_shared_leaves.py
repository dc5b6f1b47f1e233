"""Checkpoints hold once what states share, and come back to the bit."""

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sharded_checkpoint

from sleep_jax.inspect.checkpoint import Checkpoint
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory, put_slot, take_slot, unlock
from sleep_jax.runtime import checkpoints as module
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.runtime.shared_leaves import without_shared
from sleep_jax.seeding.transaction import MemoryState

LEVELS = (LevelConfig(period=1, slots=2, rank=2), LevelConfig(slots=5, rank=4))
BANK = "memory.layers.level_2.experts.down"
RECORD = {"config": {}, "run": {"phases": {}, "days": []}}


def with_slot(state: MemoryState, value: float) -> MemoryState:
    """The state with the next slot of level 2 unlocked and its `down` set."""
    slots, index = unlock(state.slots, 2)
    slot = take_slot(state.memory, 2, index)
    slot |= {"down": jnp.full_like(slot["down"], value)}
    return state.replace(memory=put_slot(state.memory, 2, index, slot), slots=slots)


@pytest.fixture(scope="module")
def states():
    """What a checkpoint after a night holds: a slot was filled, and then dreams changed it. What
    was 0 and NaN is -0 and another NaN before.
    """
    memory = MemoryConfig(LEVELS, unit="episodes")
    initial = MemoryState(*init_memory(jax.random.key(0), memory, layers=3, width=8))
    evening = with_slot(initial, 0.5)
    night = with_slot(with_slot(evening, 0.25), np.nan)
    dreamt = night.replace(memory=put_slot(night.memory, 2, 1, take_slot(night.memory, 2, 0)))
    zeros = jax.tree.map(lambda x: -x, take_slot(dreamt.memory, 2, 3))
    return {
        "current": dreamt,
        "before_sleep": evening.replace(memory=put_slot(evening.memory, 2, 3, zeros)),
        "before_dreams": jax.tree.map(jnp.array, night),  # no array of `current`
    }


def assert_same_bits(a, b):
    def bits(x):
        return np.asarray(x).tobytes(), x.shape, x.dtype

    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert jax.tree.map(bits, a) == jax.tree.map(bits, b)


def saved(folder, states):
    with PhaseCheckpoints(folder) as checkpoints:
        checkpoints.save(0, "evaluate", state=states, record=RECORD)
    return folder


def restored(folder, states):
    with PhaseCheckpoints(folder) as checkpoints:
        return checkpoints.restore(0, jax.eval_shape(lambda: states))[0]


def test_without_shared_keeps_the_slots_that_differ(states):
    tree, shared = without_shared(states)
    evening, night = (f"before_{x}.{BANK}" for x in ("sleep", "dreams"))
    # In 3 it is -0 in place of 0, in 1 and 3 gate and up are others, too.
    assert (shared[evening], shared[night]) == ([1, 2, 3], [1])
    assert shared[evening.replace("down", "gate")] == [1, 3]
    assert shared[evening.replace("level_2", "level_1")] == []
    assert set(tree["before_dreams"]["memory"]["layers"]) == {"level_2"}
    for name, slots in ((evening, [1, 2, 3]), (night, [1])):
        entry, stored = tree[name.partition(".")[0]], states[name.partition(".")[0]]
        for key in BANK.split("."):
            entry = entry[key]
        whole = stored.memory["layers"]["level_2"]["experts"]["down"]
        np.testing.assert_array_equal(entry, whole[:, np.array(slots)])
    # What was unlocked is known of every state.
    assert "before_sleep.slots.layers.level_2.active" not in shared


def test_checkpoint_comes_back_to_the_bit_and_equal_leaves_are_one_array(states, tmp_path):
    got = restored(saved(tmp_path, states), states)
    assert_same_bits(got, states)
    banks = [got[name].memory["layers"]["level_1"]["experts"]["up"] for name in got]
    assert banks[0] is banks[1] is banks[2]
    # Saved again it is the same, whatever is shared by then.
    assert_same_bits(restored(saved(tmp_path / "again", got), states), states)


def test_arrays_of_numpy_come_back_to_the_bit(states, tmp_path):
    host = jax.tree.map(np.asarray, states)
    assert_same_bits(restored(saved(tmp_path, host), states), states)


def test_states_that_are_one_are_stored_once(states, tmp_path):
    def stored(folder, state):
        return sum(x.stat().st_size for x in saved(folder, state).rglob("*") if x.is_file())

    rng = np.random.default_rng(0)  # what is stored is compressed

    def widened(x):
        shape = (*x.shape[:-1], 64 * x.shape[-1])
        return jnp.asarray(rng.normal(size=shape), jnp.float32) if x.ndim > 2 else x

    large = jax.tree.map(widened, states["current"])
    once = stored(tmp_path / "once", {"current": large})
    names = ("current", "before_sleep", "before_dreams")
    thrice = stored(tmp_path / "thrice", dict.fromkeys(names, large))
    assert thrice < 1.1 * once


def test_checkpoints_that_hold_all_are_still_read(states, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "without_shared", lambda state: (state, {}))
        whole = saved(tmp_path / "whole", states)
    monkeypatch.setattr(PhaseCheckpoints, "_facts", facts_without_shared)
    assert_same_bits(restored(whole, states), states)


def facts_without_shared(self, step, facts=PhaseCheckpoints._facts):
    return {name: x for name, x in facts(self, step).items() if name != "shared"}


def test_inspection_reads_shared_leaves_and_single_slots(states, tmp_path):
    checkpoint = Checkpoint(saved(tmp_path, states) / "0")
    for entry, state in states.items():
        for part in ("memory", "slots"):
            got, want = checkpoint.restore(f"{entry}.{part}"), getattr(state, part)
            assert_same_bits(got, jax.tree.map(np.asarray, want))
    leaf = checkpoint.leaves(f"before_sleep.{BANK}")[f"before_sleep.{BANK}"]
    assert (leaf.shape, leaf.slots) == ((3, 5, 4, 8), 5)
    whole = np.asarray(states["before_sleep"].memory["layers"]["level_2"]["experts"]["down"])
    for slot in range(5):
        got = checkpoint.read(f"before_sleep.{BANK}", slot)
        assert got.tobytes() == whole[:, slot].tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_checkpoint_of_a_mesh_comes_back_on_it_and_on_one_device(processes, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, sharded_checkpoint.__file__, str(tmp_path), address, str(processes)]
    path = {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    options = {"env": os.environ | path, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([*command, str(i)], **options) for i in range(processes)]
    for process in running:
        assert process.communicate()[0].splitlines()[-1] == "the same"
    on_one_device = sharded_checkpoint.states()
    with PhaseCheckpoints(tmp_path) as checkpoints:
        assert_same_bits(checkpoints.restore(0, on_one_device)[0], on_one_device)


def test_another_structure_is_refused_by_the_shapes_of_the_whole(states, tmp_path):
    saved(tmp_path, states)
    memory = MemoryConfig((LEVELS[0], LevelConfig(slots=6, rank=4)), unit="episodes")
    other = MemoryState(*init_memory(jax.random.key(0), memory, layers=3, width=8))
    with pytest.raises(
        ValueError, match=r"before_dreams\S+: float32\[3, 5, 8, 4\] -> float32\[3, 6"
    ):
        restored(tmp_path, dict.fromkeys(states, other))
