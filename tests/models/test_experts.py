"""The memory beside an FFN: its formulas, its initial form, no leak from an inactive slot."""

import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.interop.tensors import split_stacks
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory, put_slot, put_wake, take_slot, take_wake, unlock
from sleep_jax.models.attention import AttentionPlan
from sleep_jax.models.decoder import Block, Decoder
from sleep_jax.models.experts import RANDOM_EXPERT, MemoryLevel, contribution, random_expert, route

TOKENS = np.random.default_rng(0).integers(0, 97, (2, 12)).astype(np.int32)
LEVELS = (
    LevelConfig(period=1, slots=1, rank=4),
    LevelConfig(period=2, slots=3, rank=3),
    LevelConfig(slots=4, rank=2),
)
# In every pair of them once; the others are slow.
FEW = (
    "parallel-swiglu-none",
    "parallel-bottleneck-sigmoid",
    "parallel-swiglu-sigmoid1",
    "chain-bottleneck-none",
    "chain-swiglu-sigmoid",
    "chain-bottleneck-sigmoid1",
)
KINDS = {
    f"{layout}-{expert}-{router}{top_k or ''}": MemoryConfig(
        LEVELS, unit="episodes", layout=layout, expert=expert, router=router, top_k=top_k
    )
    for layout, expert, (router, top_k) in itertools.product(
        ("parallel", "chain"),
        ("swiglu", "bottleneck"),
        (("none", 0), ("sigmoid", 0), ("sigmoid", 1)),
    )
}


def noise(tree, seed):
    """Normal numbers in the shape of a tree."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), tree)


def silu(x):
    return x / (1 + np.exp(-x))


@functools.partial(jax.jit, static_argnames="cfg")
def gradient(cfg, variables):
    """Of a sum over the outputs, with respect to the memory."""

    def loss(memory):
        return (Decoder(cfg).apply(variables | {"memory": memory}, TOKENS) ** 2).sum()

    return jax.grad(loss)(variables["memory"])


@pytest.fixture(
    params=[pytest.param(x, marks=[pytest.mark.slow] * (x not in FEW)) for x in KINDS],
    scope="module",
)
def kind(request, cfg, variables):
    """(cfg, variables) of a memory in use: wake weights learnt, two slots of levels 2 and 3
    sealed.
    """
    cfg = cfg.replace(memory=KINDS[request.param])
    memory, slots = init_memory(jax.random.key(3), cfg.memory, layers=2, width=32)
    memory = put_wake(memory, noise(take_wake(memory), 1))
    for level, index in itertools.product((2, 3), (0, 1)):
        slots, _ = unlock(slots, level)
        slot = noise(take_slot(memory, level, index), 10 * level + index)
        memory = put_slot(memory, level, index, slot)
    return cfg, {**variables, "memory": memory, "slots": slots}


def as_dtype(variables, dtype):
    """Parameters in the operand dtype; norm scales and the memory stay float32."""
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: x if path[-1].key == "scale" else x.astype(dtype), variables["params"]
    )
    return variables | {"params": params}


def added(cfg, number, variables, h):
    """What one level adds to h."""

    def add(level, h):
        return contribution(cfg.memory, [level], h)

    return nn.apply(add, MemoryLevel(cfg, number))(variables, h)


def test_memory_level_equals_its_formula(cfg, trained):
    h = np.random.default_rng(1).normal(size=(2, 5, 32)).astype(np.float32)
    bank = jax.tree.map(lambda x: np.asarray(x[0]), trained["memory"]["layers"]["level_1"])
    bank = bank["experts"]
    memory = dataclasses.replace(cfg.memory, scale=0.5)
    active = jnp.array([True, False, True])
    bank["down"] = bank["down"] + 1.0  # slot 2 is not zero either
    slots = {"active": active, "carries": jnp.array(True)}
    weights = {"memory": {"experts": bank}, "slots": slots}
    got = added(cfg.replace(memory=memory), 1, weights, h)
    want = 0.0
    for s in (0, 2):
        want = want + 0.5 * (silu(h @ bank["gate"][s]) * (h @ bank["up"][s])) @ bank["down"][s]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_memory_level_with_wake_weights_and_gated_bottlenecks(cfg):
    levels = (LevelConfig(period=1, slots=2, rank=3), LevelConfig(slots=1, rank=2))
    memory = MemoryConfig(levels, unit="episodes", expert="bottleneck", router="sigmoid")
    h = np.random.default_rng(1).normal(size=(2, 5, 32)).astype(np.float32)
    weights, _ = init_memory(jax.random.key(0), memory, layers=1, width=32)
    weights = jax.tree.map(lambda x: np.asarray(x[0]), noise(weights, 2)["layers"]["level_1"])
    active = jnp.array([False, True])
    slots = {"active": active, "carries": jnp.array(True)}
    got = added(cfg.replace(memory=memory), 1, {"memory": weights, "slots": slots}, h)
    bank, wake = weights["experts"], weights["wake"]
    gate = 1 / (1 + np.exp(-(h @ bank["key"][1] / np.sqrt(32) + bank["bias"][1])))
    want = gate[..., None] * (silu(h @ bank["gate"][1]) @ bank["down"][1])
    want = want + silu(h @ wake["gate"]) @ wake["down"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_route_keeps_the_top_k_of_nonzero_slots():
    h = jnp.ones((1, 1, 4))
    bias = jnp.array([1.0, 3.0, 2.0, 9.0])
    active, nonzero = jnp.array([1, 1, 1, 0], bool), jnp.zeros(4, bool)

    def gates(is_zero, top_k):
        return np.asarray(route(h, jnp.zeros((4, 4)), bias, active, is_zero, top_k))[0, 0]

    on = 1 / (1 + np.exp(-np.asarray(bias)))
    np.testing.assert_allclose(gates(nonzero, 0), [*on[:3], 0], rtol=1e-6)
    np.testing.assert_allclose(gates(nonzero, 2), [0, on[1], on[2], 0], rtol=1e-6)
    # Of equals the first ones.
    equal = route(h, jnp.zeros((4, 4)), jnp.ones(4), active, nonzero, 2)[0, 0]
    np.testing.assert_array_equal(equal > 0, [True, True, False, False])
    # Slot 1 is new: it is on and does not count.
    new = jnp.array([0, 1, 0, 0], bool)
    np.testing.assert_allclose(gates(new, 1), [0, on[1], on[2], 0], rtol=1e-6)


def test_random_expert_is_uniform_over_unselected_slots():
    candidates = jnp.array([[1, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]], bool)
    tokens = 3000
    drawn = random_expert(jax.random.key(0), jnp.broadcast_to(candidates, (tokens, 3, 4)))
    share = np.asarray(drawn).mean(axis=0)
    np.testing.assert_allclose(share[0], [1 / 3, 0, 1 / 3, 1 / 3], atol=0.04)
    assert share[1].tolist() == [0] * 4 and share[2].tolist() == [0, 0, 0, 1]
    assert (np.asarray(drawn)[:, 0].sum(-1) == 1).all()


def test_route_adds_the_random_expert_with_its_gate():
    h = jnp.ones((8, 64, 4))
    bias = jnp.array([1.0, 3.0, 2.0, -1.0, 9.0])
    active, nonzero = jnp.array([1, 1, 1, 1, 0], bool), jnp.zeros(5, bool)
    given = (h, jnp.zeros((5, 4)), bias, active, nonzero)
    gates = np.asarray(route(*given, 1, jax.random.key(0)))
    on = 1 / (1 + np.exp(-np.asarray(bias)))
    is_on = gates > 0
    np.testing.assert_allclose(gates[is_on], np.broadcast_to(on, gates.shape)[is_on], rtol=1e-6)
    assert is_on[..., 1].all() and not is_on[..., 4].any() and (is_on.sum(-1) == 2).all()
    assert all(is_on[..., i].any() for i in (0, 2, 3))
    # Where all active slots are on, there is none to add.
    np.testing.assert_array_equal(route(*given, 0, jax.random.key(0)), route(*given, 0))
    np.testing.assert_array_equal(route(*given, 4, jax.random.key(0)), route(*given, 4))


def test_random_experts_differ_between_layers(cfg, variables):
    memory = MemoryConfig((LevelConfig(slots=3, rank=4),), router="sigmoid", top_k=1)
    cfg = cfg.replace(memory=memory)
    weights, slots = init_memory(jax.random.key(0), memory, layers=2, width=32)
    for _ in range(3):
        slots, _ = unlock(slots, 1)
    weights = noise(weights, 2)
    bank = weights["layers"]["level_1"]["experts"]
    bank["bias"] = jnp.broadcast_to(jnp.array([9.0, 0.0, 0.0]), (2, 3))
    bank["key"] = jnp.zeros_like(bank["key"])
    routed = {**variables, "memory": weights, "slots": slots}

    @jax.jit
    def gates(key):
        tokens, rngs = jnp.ones((1, 48), jnp.int32), {RANDOM_EXPERT: key}
        _, seen = Decoder(cfg).apply(routed, tokens, rngs=rngs, mutable=["intermediates"])
        [gates] = seen["intermediates"]["layers"]["level_1"]["gates"]
        return gates[:, 0] > 0

    drawn = np.asarray(gates(jax.random.key(1)))
    assert (drawn.sum(-1) == 2).all() and drawn[..., 0].all()
    assert not np.array_equal(drawn[0], drawn[1])  # per layer
    assert all(0 < layer[:, 1].sum() < 48 for layer in drawn)  # per token


def test_parallel_and_chain_layouts(cfg, variables):
    x = np.random.default_rng(1).normal(size=(1, 3, 32)).astype(np.float32)
    memory = KINDS["parallel-swiglu-none"]
    weights, slots = init_memory(jax.random.key(0), memory, layers=1, width=32)
    weights = noise(weights, 2)
    parts = {
        "params": variables["params"]["layers"],
        "memory": weights["layers"],
        "slots": slots["layers"],
    }
    one = jax.tree.map(lambda leaf: leaf[0], parts)
    plan = AttentionPlan(jnp.zeros((1, 3), jnp.int32), jnp.ones((1, 3, 3), bool), 0)

    def block(layout, levels=LEVELS):
        m = dataclasses.replace(memory, layout=layout, levels=levels)
        return Block(cfg.replace(memory=m)).apply(one, x, plan)[0]

    def level(number, x):
        scale = one["params"]["mlp_norm"]["scale"]
        h = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + cfg.norm_eps) * scale
        of_level = {part: one[part][f"level_{number}"] for part in ("memory", "slots")}
        return np.asarray(added(cfg.replace(memory=memory), number, of_level, h))

    bare = np.asarray(Block(cfg.replace(memory=MemoryConfig())).apply(one, x, plan)[0])
    no_mlp = jax.tree.map(jnp.zeros_like, one["params"]["mlp"])
    one_bare = one | {"params": one["params"] | {"mlp": no_mlp}}
    after_attention = np.asarray(
        Block(cfg.replace(memory=MemoryConfig())).apply(one_bare, x, plan)[0]
    )
    want = bare + sum(level(n, after_attention) for n in (1, 2, 3))
    np.testing.assert_allclose(block("parallel"), want, rtol=1e-3, atol=1e-3)
    chained = after_attention
    for n in (1, 2):
        chained = chained + level(n, chained)
    one = one_bare
    want = chained + level(3, chained)  # with F = 0
    np.testing.assert_allclose(block("chain"), want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_initial_memory_gives_the_base_model_bitwise(kind, logits, dtype):
    cfg, variables = kind[0].replace(dtype=dtype), as_dtype(kind[1], dtype)
    bare = logits(cfg.replace(memory=MemoryConfig()), {"params": variables["params"]}, TOKENS)
    memory, slots = init_memory(jax.random.key(3), cfg.memory, layers=2, width=32)
    np.testing.assert_array_equal(
        logits(cfg, variables | {"memory": memory, "slots": slots}, TOKENS), bare
    )
    assert (logits(cfg, variables, TOKENS) != bare).any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_unlock_on_a_trained_memory_changes_no_bit(kind, logits, dtype):
    cfg, variables = kind[0].replace(dtype=dtype), as_dtype(kind[1], dtype)
    before = logits(cfg, variables, TOKENS)
    for level in (1, 2, 3):
        slots, index = unlock(variables["slots"], level)
        np.testing.assert_array_equal(logits(cfg, variables | {"slots": slots}, TOKENS), before)
        slot = take_slot(variables["memory"], level, index)
        memory = put_slot(variables["memory"], level, index, noise(slot, 7))
        assert (logits(cfg, variables | {"slots": slots, "memory": memory}, TOKENS) != before).any()


def test_inactive_slots_do_not_leak_nan(kind, logits):
    cfg, variables = kind
    clean = variables["memory"]
    dirty = clean
    for level, index in ((1, 0), (2, 2), (3, 2), (3, 3)):
        nan = jax.tree.map(lambda x: x * jnp.nan, take_slot(clean, level, index))
        dirty = put_slot(dirty, level, index, nan)
    want = logits(cfg, variables, TOKENS)
    np.testing.assert_array_equal(logits(cfg, variables | {"memory": dirty}, TOKENS), want)
    of_clean, of_dirty = (gradient(cfg, variables | {"memory": x}) for x in (clean, dirty))
    jax.tree.map(np.testing.assert_array_equal, of_dirty, of_clean)
    for level, index in ((2, 0), (3, 1)):
        learning = take_slot(of_dirty, level, index)
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(learning))
        assert np.any(learning["down"])
    assert not any(np.any(g) for g in jax.tree.leaves(take_slot(of_dirty, 2, 2)))


def test_zero_slot_has_a_gradient(kind):
    """Initially the gradient of B is not zero, that of A is."""
    cfg, variables = kind
    slots, index = unlock(variables["slots"], 2)
    slot = take_slot(gradient(cfg, variables | {"slots": slots}), 2, index)
    assert np.any(slot["down"]) and not np.any(slot["gate"])


@pytest.mark.parametrize("layers", [(0,), (1,), "last_quarter"])
def test_layers_without_memory_equal_the_base(cfg, variables, logits, layers):
    """A memory in every layer, active in some, equals one in those layers alone."""
    memory = MemoryConfig(LEVELS, unit="episodes")
    everywhere = cfg.replace(memory=memory)
    some = cfg.replace(memory=dataclasses.replace(memory, layers=layers))
    chosen = some.memory.carriers(2)
    weights, _ = init_memory(jax.random.key(0), memory, layers=2, width=32)
    weights = noise(weights, 5)
    _, slots = init_memory(jax.random.key(0), some.memory, layers=2, width=32)
    for level in (1, 2, 3):
        slots, _ = unlock(slots, level)
    whole = jax.tree.map(lambda x: x, slots)
    if chosen[0]:  # the trunk has no entry
        whole = jax.tree.map(lambda x: jnp.concatenate([jnp.zeros_like(x), x]), slots)
    want = logits(everywhere, {**variables, "memory": weights, "slots": whole}, TOKENS)
    params = split_stacks(some, variables["params"])
    weights = jax.tree.map(lambda x: x[chosen[0] :], weights)
    got = logits(some, {"params": params, "memory": weights, "slots": slots}, TOKENS)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-4)
