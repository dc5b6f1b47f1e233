"""The memory beside an FFN: its formula, its silence at birth, no leak from an inactive slot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.memory.slots import init_memory, put_slot, take_slot, unlock
from sleep_jax.models.config import MemoryConfig
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.experts import Level

TOKENS = np.random.default_rng(0).integers(0, 97, (2, 12)).astype(np.int32)


def as_dtype(variables, dtype):
    """Parameters in the operand dtype; norm scales and the memory stay float32."""
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: x if path[-1].key == "scale" else x.astype(dtype), variables["params"]
    )
    return variables | {"params": params}


def test_the_formula(cfg, trained):
    h = np.random.default_rng(1).normal(size=(2, 5, 32)).astype(np.float32)
    bank = jax.tree.map(lambda x: np.asarray(x[0]), trained["memory"]["layers"]["level_1"])
    scaled = cfg.replace(memory=MemoryConfig(levels=1, slots=3, rank=4, scale=0.5))
    active = jnp.array([True, False, True])
    bank["down"] = bank["down"] + 1.0  # slot 2 speaks too
    got = Level(scaled).apply({"memory": bank, "slots": {"active": active}}, h)
    want = 0.0
    for s in (0, 2):
        g, u = h @ bank["gate"][s], h @ bank["up"][s]
        want = want + 0.5 * (g / (1 + np.exp(-g)) * u) @ bank["down"][s]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_memory_without_active_slots_is_the_base_model_bitwise(cfg, trained, logits, dtype):
    cfg = cfg.replace(dtype=dtype)
    held = as_dtype(trained, dtype)
    silent = held | {"slots": jax.tree.map(jnp.zeros_like, held["slots"])}
    bare = cfg.replace(memory=MemoryConfig(levels=0))
    want = logits(bare, {"params": held["params"]}, TOKENS)
    np.testing.assert_array_equal(logits(cfg, silent, TOKENS), want)
    assert (logits(cfg, held, TOKENS) != want).any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("levels", [1, 2])
def test_unlocking_a_slot_changes_no_bit(cfg, variables, trained, logits, dtype, levels):
    cfg = cfg.replace(dtype=dtype, memory=MemoryConfig(levels=levels, slots=3, rank=4))
    held = as_dtype(trained, dtype)
    if levels == 2:  # level 2 has a trained slot as well
        memory, slots = init_memory(
            jax.random.key(3), layers=2, width=32, levels=2, slots=3, rank=4
        )
        slots, index = unlock(slots, 2)
        slot = take_slot(memory, 2, index)
        memory = put_slot(memory, 2, index, slot | {"down": jnp.ones_like(slot["down"])})
        held["memory"] = {"layers": memory["layers"] | held["memory"]["layers"]}
        held["slots"] = {"layers": slots["layers"] | held["slots"]["layers"]}
    before = logits(cfg, held, TOKENS)
    for level in range(1, levels + 1):
        slots, _ = unlock(held["slots"], level)
        np.testing.assert_array_equal(logits(cfg, held | {"slots": slots}, TOKENS), before)


def test_nothing_leaks_from_an_inactive_slot(cfg, trained, logits):
    clean = trained["memory"]
    dirty = put_slot(clean, 1, 2, jax.tree.map(lambda x: x * jnp.nan, take_slot(clean, 1, 2)))
    want = logits(cfg, trained, TOKENS)
    np.testing.assert_array_equal(logits(cfg, trained | {"memory": dirty}, TOKENS), want)

    @jax.jit
    @jax.grad
    def gradient(memory):
        return (Decoder(cfg).apply(trained | {"memory": memory}, TOKENS) ** 3).sum()

    jax.tree.map(np.testing.assert_array_equal, gradient(dirty), gradient(clean))
    learning, silent = (take_slot(gradient(dirty), 1, s) for s in (1, 2))
    assert all(np.isfinite(g).all() and np.any(g) for g in jax.tree.leaves(learning))
    assert not any(np.any(g) for g in jax.tree.leaves(silent))
