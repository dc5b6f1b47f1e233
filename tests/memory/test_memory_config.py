"""A memory that cannot work is an error that names the field, its value and what would work."""

import re

import pytest

from sleep_jax.config import default, read
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig

LADDER = (
    LevelConfig(period=1000, slots=0),
    LevelConfig(period=5000, slots=5),
    LevelConfig(period=10000, slots=2),
    LevelConfig(slots=8),
)


def ladder(number, **changes):
    """The ladder with one level changed, in updates so that no stride has to divide it."""
    levels = list(LADDER)
    fields = {"period": levels[number - 1].period, "slots": levels[number - 1].slots} | changes
    levels[number - 1] = LevelConfig(**fields)
    return {"levels": tuple(levels), "unit": "updates", "from_context": False}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"unit": "steps"}, "memory.unit='steps'; choose from tokens, updates, episodes"),
        ({"layout": "serial"}, "memory.layout='serial'; choose from parallel, chain"),
        ({"expert": "glu"}, "memory.expert='glu'; choose from swiglu, bottleneck"),
        (
            {"expert": "lora", "layout": "chain"},
            "memory.layout='chain' with memory.expert='lora', .*; set memory.layout='parallel', or",
        ),
        (
            {"expert": "lora", "router": "sigmoid"},
            "memory.router='sigmoid' with memory.expert='lora', .*; set memory.router='none', or",
        ),
        (
            {"expert": "lora", "levels": (LevelConfig(period=4), LevelConfig())},
            "memory.periods=(4, 0) with memory.expert='lora', which has no wake w",
        ),
        ({"router": "softmax"}, "memory.router='softmax'; choose from none, sigmoid"),
        ({"on_full": "wrap"}, "memory.on_full='wrap'; choose from error, skip, merge, reuse"),
        ({"stride": 0}, "memory.stride=0; give a whole number at least 1"),
        ({"top_k": 2}, "memory.top_k=2 needs a router .*; set memory.router='sigmoid' or"),
        ({"router_key": "lda"}, "memory.router_key='lda'; choose from mean, contrast"),
        ({"router_key": "contrast"}, "memory.router_key='contrast' needs a router that has keys"),
        (
            {"top_k": -1, "router": "sigmoid"},
            "memory.top_k=-1; give a whole number at least 0 (slots of a level that",
        ),
        (
            ladder(4, period=20000),
            "memory.periods=20000 of level 4, but the slowest level has no level to .*; set 0",
        ),
        (
            ladder(4, slots=2) | {"on_full": "merge"},
            "memory.slots=2 of level 4, but memory.on_full='merge' seeds at least two",
        ),
        (ladder(2, period=0), "memory.periods=0 of level 2; every level but the slowest needs a"),
        (
            {"levels": LADDER, "unit": "tokens", "stride": 256, "from_context": False},
            "memory.periods=1000 of level 1 is no multiple of memory.stride=256 tokens",
        ),
        (
            ladder(1, updates_per_period=3) | {"unit": "tokens", "stride": 250},
            "memory.updates_per_period=3 of level 1: 1000 tokens are not 3 windows of whole strid",
        ),
        (
            ladder(1, updates_per_period=3),
            "memory.updates_per_period=3 of level 1: 1000 updates are not 3 windows of whole updat",
        ),
        (
            ladder(4, slots=0),
            "memory.slots=0 of level 4, but level 3 consolidates into it; give it one slot",
        ),
        (
            ladder(3, period=12000),
            "memory.periods=12000 of level 3 is no larger multiple of the 5000 of the level below",
        ),
        (
            ladder(2, period=1000),
            "memory.periods=1000 of level 2 is no larger multiple of the 1000",
        ),
        (
            ladder(3, period=2500),
            "memory.periods=2500 of level 3 is no larger multiple of the 5000",
        ),
        (
            ladder(2, slots=4),
            "memory.slots=4 of level 2, but level 1 consolidates into it 5 times in its period of "
            "5000; raise it to 5 or shorten the period",
        ),
        (
            ladder(3, slots=1),
            "memory.slots=1 of level 3, but level 2 consolidates into it 2 times .* to 2 or",
        ),
        (
            {"levels": (LevelConfig(period=4, slots=3), LevelConfig()), "unit": "episodes"},
            "memory.slots=3 of level 1, but level 0 consolidates into it 4 times in its period of "
            "4; raise it",
        ),
    ],
)
def test_memory_config_rejects_levels_that_do_not_fit(fields, says):
    with pytest.raises(ValueError, match=re.escape(says).replace(r"\.\*", ".*")):
        MemoryConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"rank": 0}, "memory.ranks=0; give a whole number at least 1"),
        ({"slots": -1}, "memory.slots=-1; give a whole number at least 0"),
        ({"slots": 2.0}, "memory.slots=2.0; give a whole number at least 0"),
        ({"learning_rate": -0.1}, "memory.learning_rates=-0.1; give auto, or a number at least 0"),
        ({"period": -4}, "memory.periods=-4; give a whole number at least 0"),
    ],
)
def test_level_config_rejects_values_out_of_range(fields, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        LevelConfig(**fields)


def test_memory_config_accepts_limits():
    """The same fields, one step from the errors above."""
    MemoryConfig(**ladder(1))
    MemoryConfig(LADDER, unit="tokens", stride=250, from_context=False)
    MemoryConfig(**ladder(1, updates_per_period=4) | {"unit": "tokens", "stride": 250})
    MemoryConfig(top_k=2, router="sigmoid")
    MemoryConfig((LevelConfig(rank=1, slots=0),), from_context=False)
    once = (LevelConfig(period=1, slots=1), LevelConfig(slots=1))  # every episode a night
    MemoryConfig(once, unit="episodes")
    MemoryConfig(**ladder(3, slots=1), on_full="reuse")  # whose last slot is used again
    # No context is handed up, so level 1 needs no slots.
    alone = (LevelConfig(period=4, slots=0), LevelConfig())
    MemoryConfig(alone, unit="episodes", from_context=False)


def test_level_counts_from_one_and_only_the_slowest_has_no_wake():
    memory = MemoryConfig(**ladder(1))
    assert memory.depth == 4 and MemoryConfig().depth == 0
    assert [memory.level(n).period for n in (1, 2, 3, 4)] == [1000, 5000, 10000, 0]
    assert [memory.has_wake(n) for n in (1, 2, 3, 4)] == [True, True, True, False]
    assert not MemoryConfig((LevelConfig(),)).has_wake(1)


@pytest.mark.parametrize(
    ("layers", "depth", "carriers"),
    [
        ("all", 3, (0, 1, 2)),
        ("last_quarter", 8, (6, 7)),
        ("last_quarter", 30, (23, 24, 25, 26, 27, 28, 29)),
        ("last_quarter", 2, (1,)),
        ((4, 1, 4), 5, (1, 4)),
    ],
)
def test_carriers(layers, depth, carriers):
    assert MemoryConfig(layers=layers).carriers(depth) == carriers


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ("first", "memory.layers='first'; choose 'all', 'last_quarter' or indices"),
        ((), "memory.layers=(); the decoder has layers 0 to 3"),
        ((1, 4), "memory.layers=(1, 4); the decoder has layers 0 to 3"),
        ((-1, 2), "memory.layers=(-1, 2); the decoder has layers 0 to 3"),
    ],
)
def test_carriers_rejects_layers_that_the_decoder_does_not_have(layers, says, cfg):
    memory = MemoryConfig(layers=layers)
    with pytest.raises(ValueError, match=re.escape(says)):
        memory.carriers(4)
    with pytest.raises(ValueError, match=r"memory\.layers"):
        cfg.replace(memory=memory)


def test_default_config_is_one_level_that_only_receives():
    assert read(default()).memory == MemoryConfig(
        (LevelConfig(period=0, slots=5, rank=16, learning_rate=0.0),), unit="episodes"
    )


def test_single_entry_is_used_for_all_levels():
    c = default()
    c.memory.periods, c.memory.slots = (512, 1024, 0), (3, 2, 7)
    c.memory.unit, c.memory.learning_rates = "tokens", (0.1,)
    c.memory.layout, c.memory.scale = "chain", 0.5
    assert read(c).memory == MemoryConfig(
        (
            LevelConfig(512, 3, 16, 0.1),
            LevelConfig(1024, 2, 16, 0.1),
            LevelConfig(0, 7, 16, 0.1),
        ),
        unit="tokens",
        layout="chain",
        scale=0.5,
    )


def test_layers_are_read_from_indices():
    c = default()
    for given, want in (
        ("1", (1,)),
        ("20,21,25", (20, 21, 25)),
        (" 0, 1", (0, 1)),
        ("3,", (3,)),
        ("last_quarter",) * 2,
    ):
        c.memory.layers = given
        assert read(c).memory.layers == want


@pytest.mark.parametrize("unit", ["tokens", "updates", "episodes"])
def test_from_context_needs_a_slot_of_level_1(unit):
    says = "memory.slots=0 of level 1, but the context is consolidated into level 1; give it a slot"
    with pytest.raises(ValueError, match=re.escape(says)):
        MemoryConfig((LevelConfig(256, slots=0), LevelConfig()), unit=unit)


@pytest.mark.parametrize("values", [(5, 5), (5, 5, 5, 5)])
def test_columns_of_different_lengths_are_rejected(values):
    c = default()
    c.memory.periods, c.memory.slots = (512, 1024, 0), values
    says = f"memory.slots={values} has {len(values)} entries, memory.periods has 3; give one for"
    with pytest.raises(ValueError, match=re.escape(says)):
        read(c)
