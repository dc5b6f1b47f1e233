import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.inspect import Checkpoint, Run, changes, slots
from sleep_jax.inspect.memory import in_use
from sleep_jax.runtime.checkpoints import PhaseCheckpoints


def test_slots_gives_norms_by_layer(finished, states):
    fast, slow = slots(Run(finished)["consolidate"])
    assert (fast.level, fast.used, fast.capacity) == (1, 1, 2)
    # `down` of level 1 is 2 x 8 entries of 0.5 in each of 3 layers: a norm of 0.5 * 4.
    np.testing.assert_allclose(fast.norms["down"], [[2.0, np.nan]] * 3)
    gate = states[1].memory["layers"]["level_1"]["experts"]["gate"]
    np.testing.assert_allclose(
        fast.norms["gate"][:, 0], np.linalg.norm(gate[:, 0], axis=(1, 2)), rtol=1e-5
    )
    up = states[1].memory["layers"]["level_1"]["wake"]["up"]
    np.testing.assert_allclose(fast.wake["up"], np.linalg.norm(up, axis=(1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(fast.wake["down"], 0)
    assert (slow.used, slow.capacity, slow.norms, slow.wake) == (0, 3, {}, {})


def test_slots_of_each_memory_state(finished):
    last = Run(finished)["evaluate"]
    assert in_use(last) == {1: (1, 2), 2: (0, 3)}
    assert in_use(last, "before_sleep") == {1: (0, 2), 2: (0, 3)}
    with pytest.raises(ValueError, match="state='morning'; choose from current, before_sleep"):
        slots(last, "morning")


def test_changes_names_leaf_slot_and_relative_norm(finished):
    run = Run(finished)
    changed = {x.name: x for x in changes(run["consolidate"], run["learn"])}
    down = changed.pop("memory.layers.level_1.experts.down")
    # 0.5 became 0.625 in 3 layers x 2 x 8 entries; the other slot is all zeros.
    assert (down.kind, down.entries, down.slots) == ("changed", 48, (0,))
    assert down.relative == pytest.approx(0.25)
    assert {x.kind for x in changed.values()} == {"identical"}
    assert (
        "memory.layers.level_2.experts.gate" in changed and "slots.layers.level_1.active" in changed
    )


def test_changes_of_unlocking_a_slot(finished):
    run = Run(finished)
    moved = {x.name: x for x in changes(run["wake"], run["consolidate"]) if x.kind != "identical"}
    assert set(moved) == {"memory.layers.level_1.experts.down", "slots.layers.level_1.active"}
    assert moved["memory.layers.level_1.experts.down"].relative == np.inf  # B = 0 initially
    mask = moved["slots.layers.level_1.active"]
    assert (mask.entries, mask.relative) == (3, None)


def test_changes_compares_bits_and_shapes(tmp_path):
    before = {"nan": jnp.array([jnp.nan, 0.0]), "shape": jnp.zeros(2), "gone": jnp.zeros(1)}
    after = {"nan": jnp.array([jnp.nan, -0.0]), "shape": jnp.zeros(3), "new": jnp.zeros(1)}
    with PhaseCheckpoints(tmp_path) as saved:
        saved.save(0, "wake", state={"current": before}, record={})
        saved.save(1, "learn", state={"current": after}, record={})
    old, new = Checkpoint(tmp_path / "0"), Checkpoint(tmp_path / "1")
    kinds = {x.name: (x.kind, x.entries) for x in changes(old, new)}
    assert kinds == {
        "gone": ("gone", 0), "nan": ("changed", 1), "new": ("new", 0), "shape": ("reshaped", 0),
    }  # fmt: skip
    assert {x.kind for x in changes(old, old)} == {"identical"}
