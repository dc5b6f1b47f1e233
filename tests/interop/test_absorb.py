import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.interop.absorb import absorb
from sleep_jax.interop.tensors import join_stacks, split_stacks
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory, put_wake, take_wake, unlock

LEVELS = (LevelConfig(8, 3, 4, 0.1), LevelConfig(16, 2, 3, 0.1), LevelConfig(slots=2, rank=2))
TOKENS = np.random.default_rng(0).integers(0, 97, (2, 12)).astype(np.int32)


def noise(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), tree)


@pytest.fixture
def slept(cfg, variables):
    """layers -> (cfg, variables): nonzero wake weights, two slots of level 1 and one of level 3 in
    use, random numbers in all other slots.
    """

    def make(layers):
        memory = MemoryConfig(LEVELS, stride=8, scale=0.5, layers=layers, from_context=False)
        cfg_with_memory = cfg.replace(memory=memory)
        weights, slots = init_memory(jax.random.key(1), memory, layers=cfg.layers, width=cfg.width)
        weights = put_wake(noise(weights, 1), noise(take_wake(weights), 2))
        for level in (1, 1, 3):
            slots, _ = unlock(slots, level)
        params = split_stacks(cfg_with_memory, variables["params"])
        return cfg_with_memory, {"params": params, "memory": weights, "slots": slots}

    return make


@pytest.mark.parametrize("layers", ["all", (1,), (0,)])
def test_absorb_keeps_logits(slept, logits, layers):
    cfg, variables = slept(layers)
    plain, params = absorb(cfg, variables)
    assert (plain.hidden, plain.memory.depth) == (cfg.hidden + 2 * 4 + 2 + 4 + 3, 0)
    assert params["layers"]["mlp"]["gate"]["kernel"].shape == (2, 32, plain.hidden)
    expected = logits(cfg, variables, TOKENS)
    np.testing.assert_allclose(logits(plain, {"params": params}, TOKENS), expected, atol=2e-5)
    bare = {"params": join_stacks(cfg, variables["params"])}
    base = logits(plain.replace(hidden=cfg.hidden), bare, TOKENS)
    assert np.abs(base - expected).max() > 0.1


def test_absorb_without_active_slots_is_the_base(cfg, variables, logits):
    plain, params = absorb(cfg, variables)
    assert plain.hidden == cfg.hidden
    np.testing.assert_array_equal(
        logits(plain, {"params": params}, TOKENS), logits(cfg, variables, TOKENS)
    )


def test_absorb_leaves_out_a_slot_that_is_not_active(slept, logits):
    cfg, variables = slept("all")
    masks = variables["slots"]["layers"]
    active = masks["level_1"]["active"].at[:, 0].set(False)  # the first of two
    slots = {"layers": masks | {"level_1": masks["level_1"] | {"active": active}}}
    variables |= {"slots": slots}
    plain, params = absorb(cfg, variables)
    assert plain.hidden == cfg.hidden + 4 + 2 + 4 + 3
    expected = logits(cfg, variables, TOKENS)
    np.testing.assert_allclose(logits(plain, {"params": params}, TOKENS), expected, atol=2e-5)


def test_absorb_pads_with_units_that_add_nothing(slept, logits):
    cfg, variables = slept((1,))
    plain, params = absorb(cfg, variables, pad=32)
    assert plain.hidden == 96  # 48 of the base and 17 of the memory
    mlp = params["layers"]["mlp"]
    assert not any(np.any(mlp[x]["kernel"][:, :, 65:]) for x in ("gate", "up"))
    assert not np.any(mlp["down"]["kernel"][:, 65:])
    expected = logits(cfg, variables, TOKENS)
    np.testing.assert_allclose(logits(plain, {"params": params}, TOKENS), expected, atol=2e-5)


@pytest.mark.parametrize(
    "field, value", [("layout", "chain"), ("expert", "bottleneck"), ("router", "sigmoid")]
)
def test_absorb_of_unsupported_memory_raises(cfg, variables, field, value):
    memory = dataclasses.replace(cfg.memory, **{field: value})
    with pytest.raises(
        ValueError, match=f"memory.{field}={value!r} cannot be absorbed into an FFN"
    ):
        absorb(cfg.replace(memory=memory), variables)
