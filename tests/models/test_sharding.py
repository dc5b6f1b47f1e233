import pathlib

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from sleep_jax import config as settings
from sleep_jax.cli.config_files import load
from sleep_jax.forecast.programs import programs_of
from sleep_jax.models import sharding
from sleep_jax.models.cache import init_cache
from sleep_jax.models.decode_layout import DECODE_RULES
from sleep_jax.phases.registry import PHASES
from sleep_jax.programs.abstract import collections_of, decoder_of
from sleep_jax.programs.sizes import expected_sizes
from sleep_jax.seeding.sequences import BatchShape, Exchange, HiddenStates, make_batch

PRESETS = sorted(p.stem for p in pathlib.Path("configs").glob("[!_]*.py"))


def abstract(data=1, fsdp=4, tensor=2):
    return AbstractMesh((data, fsdp, tensor), sharding.AXES, (AxisType.Auto,) * 3)


def preset(name):
    return load(f"configs/{name}.py")


@pytest.mark.parametrize("name", PRESETS)
def test_rules_match_every_leaf_of_every_preset_once(name):
    config = preset(name)
    cfg = decoder_of(config)
    trees = collections_of(config, cfg)
    trees["cache"] = jax.eval_shape(lambda: init_cache(cfg, 2, 16))
    unrolled = cfg.replace(scan_layers=False)
    trees["trials"] = trees["lora"]
    trees["batch"] = make_batch(
        [Exchange(None, (1,), (1,), (2, 3), "answer")],
        [HiddenStates(np.zeros((2, 8), np.float32), np.zeros((2, 8), np.float32))],
        [[0]],
        BatchShape(1, 8, 4),
    )
    several = [("cache", jax.eval_shape(lambda: init_cache(unrolled, 2, 16)))]
    for collection, tree in [*trees.items(), *several]:
        for path, _ in jax.tree_util.tree_leaves_with_path(tree):
            path = sharding.path_of(collection, path)
            assert len(sharding.rules_of(path)) == 1, path


def test_rules_match_a_router_and_a_critic():
    config = preset("levels_tiny")
    config.memory.router, config.seeding.estimator = "sigmoid", "ppo"
    config.memory.learning_rates = (0.1, 0.1, 0.0)
    cfg = decoder_of(config)
    collections = collections_of(config, cfg)
    assert collections["learner"].critic is not None and "key" in collections["learner"].slot
    for name in ("memory", "learner", "wake"):
        sharding.shardings(collections[name], name, abstract())


def test_rules_match_low_rank_terms():
    config = preset("sleep_tiny")
    config.memory.expert = "lora"
    collections = collections_of(config, decoder_of(config))
    for name in ("memory", "learner"):
        sharding.shardings(collections[name], name, abstract())
    slot = sharding.shardings(collections["learner"], "learner", abstract()).slot
    assert {"gate_a", "up_b", "down_a", "down_b"} <= slot.keys()


def test_shardings_split_weights_over_fsdp_and_tensor():
    config = preset("seeding_8b")
    collections = collections_of(config, decoder_of(config))
    params = sharding.shardings(collections["params"], "params", abstract())
    layer = params["layers"]
    assert layer["mlp"]["up"]["kernel"].spec == PartitionSpec(None, "fsdp", "tensor")
    assert layer["attention"]["o"]["kernel"].spec == PartitionSpec(None, "tensor", "fsdp")
    assert layer["mlp_norm"]["scale"].spec == PartitionSpec()
    assert params["embed"]["embedding"].spec == PartitionSpec("tensor", "fsdp")
    bank = sharding.shardings(collections["memory"], "memory", abstract())["layers"]["level_1"][
        "experts"
    ]
    assert bank["gate"].spec == PartitionSpec(None, None, "fsdp")
    assert bank["down"].spec == PartitionSpec(None, None, None, "fsdp")
    learner = sharding.shardings(collections["learner"], "learner", abstract())
    assert learner.opt_state[1][0].mu["down"].spec == learner.slot["down"].spec
    assert learner.slot["down"].spec == PartitionSpec(None, None, "fsdp")


def test_spec_replicates_what_an_axis_does_not_divide():
    mesh = abstract(data=2, fsdp=4, tensor=3)
    spec = sharding.spec_of("params/layers/mlp/up/kernel", (2, 64, 128), mesh)
    assert spec == PartitionSpec(None, "fsdp")
    assert sharding.spec_of("batch/tokens", (12, 5), mesh) == PartitionSpec()
    assert sharding.spec_of("batch/tokens", (16, 5), mesh) == PartitionSpec(("data", "fsdp"))
    # Axes of size 1 are left out, as programs leave them out of what they return.
    assert sharding.spec_of("batch/tokens", (16, 5), abstract()) == PartitionSpec("fsdp")


def test_spec_of_a_leaf_without_a_rule_raises():
    with pytest.raises(ValueError, match=r"params/layers/mlp/side/kernel: 0 sharding rules"):
        sharding.spec_of("params/layers/mlp/side/kernel", (2, 2), abstract())


def test_place_and_constrain_without_a_mesh_change_nothing():
    x = np.arange(6.0).reshape(2, 3)
    assert sharding.place({"tokens": x}, "batch")["tokens"] is x
    assert sharding.constrain(x, "data", None) is x
    assert sharding.row_shards() == 1 and sharding.spread_evenly(5) == 5


@pytest.mark.parametrize("name", ["seeding_8b", "seeding_1p7b", "seeding_llama3_8b", "sleep_tiny"])
def test_programs_have_abstract_arguments_only(name):
    config = preset(name)
    sizes = expected_sizes(settings.read(config), 8, 384, 88)
    programs = programs_of(config, abstract(1, 4, 1), sizes)
    names = [p.name for p in programs]
    assert len(set(names)) == len(names)
    assert {p.phase for p in programs} == set(PHASES) - {"merge"}
    leaves = [x for p in programs for x in jax.tree.leaves(p.args)]
    assert not any(isinstance(x, (jax.Array, np.ndarray)) for x in leaves)
    assert all(p.calls >= 1 and p.tokens >= 1 for p in programs)


@pytest.mark.parametrize("expert", ["swiglu", "lora"])
def test_decode_rules_cut_every_matrix_over_all_chips_along_units(expert):
    config = preset("sleep_tiny")
    config.memory.expert = expert
    collections = collections_of(config, decoder_of(config))
    mesh, specs = abstract(), {}
    for name in ("params", "memory", "lora"):
        for path, x in jax.tree_util.tree_leaves_with_path(collections[name]):
            path = sharding.path_of(name, path)
            assert len(sharding.rules_of(path, DECODE_RULES)) == 1, path
            specs[path] = sharding.spec_of(path, x.shape, mesh, DECODE_RULES)
    layer = "params/layers/mlp"
    assert specs[f"{layer}/up/kernel"] == PartitionSpec(None, None, ("tensor", "fsdp"))
    assert specs[f"{layer}/down/kernel"] == PartitionSpec(None, ("tensor", "fsdp"))
    assert specs["lora/layers/mlp/up/a"] == PartitionSpec()
    assert specs["params/embed/embedding"] == PartitionSpec("tensor", "fsdp")
    bank = "memory/layers/level_1/experts"
    if expert == "swiglu":
        assert specs[f"{bank}/gate"] == PartitionSpec(None, None, None, "fsdp")
        assert specs[f"{bank}/down"] == PartitionSpec(None, None, "fsdp")
    else:
        assert specs[f"{bank}/up_b"] == PartitionSpec(None, None, None, ("tensor", "fsdp"))
        assert specs[f"{bank}/up_a"] == PartitionSpec()
