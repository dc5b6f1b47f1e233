"""Low-rank terms within the FFN: formula, gradient, initial form, no leak from an inactive slot."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.interop.tensors import split_stacks
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import (
    FFN,
    clear_experts,
    grown,
    init_memory,
    put_slot,
    take_slot,
    unlock,
    zeroed,
)
from sleep_jax.models.decoder import MLP, Decoder
from sleep_jax.models.experts import MemoryLevel, low_rank_terms

TOKENS = np.random.default_rng(0).integers(0, 97, (2, 12)).astype(np.int32)
CONFIG = MemoryConfig((LevelConfig(slots=3, rank=2),), expert="lora", scale=0.5)


def noise(tree, seed):
    """Normal numbers in the shape of a tree."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), tree)


def silu(x):
    return x / (1 + np.exp(-x))


@pytest.fixture(scope="module")
def low_rank(cfg, variables):
    """(cfg, variables) of a memory whose first slot is active and, as all others, initial."""
    cfg = cfg.replace(memory=CONFIG)
    shape = {"layers": cfg.layers, "width": cfg.width, "hidden": cfg.hidden}
    memory, slots = init_memory(jax.random.key(3), CONFIG, **shape)
    return cfg, {"params": variables["params"], "memory": memory, "slots": unlock(slots, 1)[0]}


def test_low_rank_terms_of_several_slots_equal_their_formula(cfg):
    cfg = cfg.replace(memory=CONFIG)
    weights, _ = init_memory(
        jax.random.key(0), CONFIG, layers=1, width=cfg.width, hidden=cfg.hidden
    )
    bank = jax.tree.map(lambda x: x[0], noise(weights, 1)["layers"]["level_1"]["experts"])
    bank = jax.tree.map(lambda x: x.at[1].set(jnp.nan), bank)  # inactive
    slots = {"active": jnp.array([True, False, True]), "carries": jnp.array(True)}
    h = np.random.default_rng(2).normal(size=(2, 5, cfg.width)).astype(np.float32)
    params = noise(MLP(cfg).init(jax.random.key(1), h)["params"], 3)

    terms = nn.apply(lambda level, h: low_rank_terms([level], h), MemoryLevel(cfg, 1))(
        {"memory": {"experts": bank}, "slots": slots}, h
    )
    got = MLP(cfg).apply({"params": params}, h, terms)

    full = {
        name: np.asarray(params[name]["kernel"], np.float64)
        + 0.5 * sum(np.asarray(bank[f"{name}_a"][s] @ bank[f"{name}_b"][s]) for s in (0, 2))
        for name in FFN
    }
    want = (silu(h @ full["gate"]) * (h @ full["up"])) @ full["down"]
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())


def test_low_rank_terms_gradient_by_hand(cfg):
    """One number each: h = 2, G = 0.5, U = 1.5, D = 3, every A = 1 and B = 0."""
    memory = dataclasses.replace(CONFIG, scale=1.0)
    cfg = cfg.replace(memory=memory, width=1, hidden=1)
    kernels = {"gate": 0.5, "up": 1.5, "down": 3.0}
    params = {name: {"kernel": jnp.full((1, 1), x)} for name, x in kernels.items()}
    terms = {
        f"{n}_{side}": jnp.full((1, 1), x) for n in FFN for side, x in (("a", 1.0), ("b", 0.0))
    }

    def output(terms):
        return MLP(cfg).apply({"params": params}, jnp.full((1, 1, 1), 2.0), terms).sum()

    got = {name: float(x[0, 0]) for name, x in jax.grad(output)(terms).items()}
    # silu(1) = 0.7310586, silu'(1) = 0.9276705; the hidden unit is silu(1) * 3 = 2.1931758.
    want = {"gate_b": 2 * 0.9276705 * 3 * 3, "up_b": 2 * 0.7310586 * 3, "down_b": 2.1931758}
    assert got == pytest.approx(want | dict.fromkeys(("gate_a", "up_a", "down_a"), 0), rel=1e-5)


def test_low_rank_terms_change_nothing_initially(low_rank, logits):
    cfg, variables = low_rank
    bare = cfg.replace(memory=MemoryConfig())
    want = logits(bare, {"params": variables["params"]}, TOKENS)
    np.testing.assert_array_equal(logits(cfg, variables, TOKENS), want)
    slot = noise(take_slot(variables["memory"], 1, 0), 4)
    learnt = put_slot(variables["memory"], 1, 0, slot)
    assert np.abs(logits(cfg, variables | {"memory": learnt}, TOKENS) - want).max() > 0.01
    without = put_slot(learnt, 1, 0, zeroed(slot))
    got = logits(cfg, variables | {"memory": without}, TOKENS)
    np.testing.assert_array_equal(got, want)


def test_low_rank_terms_of_inactive_slots_leak_nothing(low_rank):
    cfg, variables = low_rank
    memory = put_slot(variables["memory"], 1, 0, noise(take_slot(variables["memory"], 1, 0), 4))

    @jax.jit
    def outputs(memory):
        def loss(memory):
            y = Decoder(cfg).apply(variables | {"memory": memory}, TOKENS)
            return (y**2).sum(), y

        return jax.grad(loss, has_aux=True)(memory)

    gradient, want = outputs(memory)
    poisoned = put_slot(
        memory, 1, 1, jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), take_slot(memory, 1, 1))
    )
    got_gradient, got = outputs(poisoned)
    np.testing.assert_array_equal(got, want)
    jax.tree.map(np.testing.assert_array_equal, got_gradient, gradient)
    assert not any(np.any(x) for x in jax.tree.leaves(take_slot(gradient, 1, 1)))
    assert all(np.any(x) for x in jax.tree.leaves(take_slot(gradient, 1, 0)))


def test_low_rank_terms_of_some_layers(cfg, variables, logits):
    cfg = cfg.replace(memory=dataclasses.replace(CONFIG, layers=(1,)))
    shape = {"layers": cfg.layers, "width": cfg.width, "hidden": cfg.hidden}
    memory, slots = init_memory(jax.random.key(3), cfg.memory, **shape)
    assert memory["layers"]["level_1"]["experts"]["down_a"].shape == (1, 3, cfg.hidden, 2)
    params = split_stacks(cfg, variables["params"])
    slots, _ = unlock(slots, 1)
    got = logits(cfg, {"params": params, "memory": noise(memory, 1), "slots": slots}, TOKENS)
    bare = logits(cfg.replace(memory=MemoryConfig()), {"params": variables["params"]}, TOKENS)
    assert np.abs(got - bare).max() > 0.01


def test_init_memory_of_low_rank_terms_needs_the_width_of_the_ffn():
    with pytest.raises(ValueError, match=r"hidden=0: memory\.expert='lora' needs the width"):
        init_memory(jax.random.key(0), CONFIG, layers=2, width=8)


def test_grown_and_cleared_slots_of_low_rank_terms_are_initial():
    memory, slots = init_memory(jax.random.key(0), CONFIG, layers=2, width=64, hidden=96)
    bank = memory["layers"]["level_1"]["experts"]
    for name, inputs in (("gate", 64), ("up", 64), ("down", 96)):  # N(0, 1 / inputs)
        np.testing.assert_allclose(np.std(bank[f"{name}_a"]), inputs**-0.5, rtol=0.1)
        assert not bank[f"{name}_b"].any()
    more = dataclasses.replace(CONFIG, levels=(LevelConfig(slots=5, rank=2),))
    after, _ = grown(jax.random.key(1), more, memory, slots, 64, 96)
    for name, x in after["layers"]["level_1"]["experts"].items():
        assert x.shape == (2, 5, *bank[name].shape[2:])
        np.testing.assert_array_equal(x[:, :3], bank[name])
    cleared, masks = clear_experts(
        jax.random.key(2), CONFIG, noise(memory, 1), unlock(slots, 1)[0], 1
    )
    shapes = jax.tree.map(np.shape, cleared)
    assert shapes == jax.tree.map(np.shape, memory)
    assert not cleared["layers"]["level_1"]["experts"]["up_b"].any()
    assert not masks["layers"]["level_1"]["active"].any()
