import importlib.util
import re
import runpy

import pytest

from sleep_jax.runtime import aot
from sleep_jax.runtime.programs import Program

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the TPU compiler is not installed"
)


def preset(name):
    return runpy.run_path(f"configs/{name}.py")["get_config"]()


def test_a_dry_run_says_what_is_held_and_what_it_costs():
    lines = list(aot.forecast(preset("seeding_8b"), None, is_dry=True))
    assert lines[0] == "Qwen/Qwen3-8B on v5e:4x4: mesh data 1 x fsdp 16 x tensor 1"
    text = "\n".join(lines)
    # 8,190,735,360 numbers, bfloat16 but for the norms; all but these over 16 chips.
    assert "params: 8,190,735,360 numbers, 15.257 GiB, 0.955 GiB a device" in text
    # 36 layers x 5 slots x 3 matrices x 4096 x 64.
    assert "memory: 141,557,760 numbers, 0.527 GiB, 0.033 GiB a device" in text
    assert re.search(r"params/layers/mlp/up/kernel +bfloat16 .*P\(None, 'fsdp'\)", text)
    calls = {name: int(n) for name, n in re.findall(r"^  (\w+: [\w ]+?) +(\d+) ", text, re.M)}
    assert calls["consolidate: update"] == 100 and calls["dream: learn"] == 20


def test_a_dry_run_of_another_slice():
    lines = list(aot.forecast(preset("seeding_8b"), "v5p:2x2x2", is_dry=True))
    assert "fsdp 8" in lines[0] and "v5p:2x2x2" in lines[0]


def test_mistakes_are_named_before_any_work(monkeypatch):
    config = preset("seeding_8b")
    with pytest.raises(ValueError, match="no TPU slice"):
        aot.forecast(config, "v5e", is_dry=True)
    config.mesh.fsdp = 4
    with pytest.raises(ValueError, match="16 devices"):
        aot.forecast(config, "v5e:4x4", is_dry=True)
    config.mesh.fsdp, config.model.name = -1, "org/unknown"
    with pytest.raises(ValueError, match="nothing is downloaded"):
        aot.forecast(config, "v5e:4x4", is_dry=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"-e '\.\[tpu\]'"):
        aot.forecast(preset("seeding_8b"), "v5e:4x4", is_dry=False)


def test_advice_names_settings_with_their_values():
    config = preset("seeding_8b")
    config.model.remat = "none"
    knobs = ("model.remat", "seeding.accumulate", "seeding.rows", "dreaming.trial.chunk")
    program = Program("consolidate: update", None, (), 1, 1, 1.0, 1, knobs=knobs)
    found = aot.Compiled(program, 1.0, 17 * 2**30, fits=False)
    said = aot.advice(found, config, {"data": 2, "fsdp": 4, "tensor": 2})
    assert said.startswith("set model.remat='full'; raise seeding.accumulate from 1 to 2; lower ")
    assert "lower seeding.rows from 16" in said and "lower dreaming.trial.chunk from 1" in said
    assert "mesh.data=2 to mesh.fsdp" in said
    # One row a shard cannot be cut any further.
    config.model.remat = "full"
    said = aot.advice(found, config, {"data": 1, "fsdp": 16, "tensor": 1})
    assert said.startswith("lower dreaming.trial.chunk") and "seeding" not in said


@needs_compiler
@pytest.mark.slow
def test_the_tiny_run_compiles_for_a_slice():
    config = preset("sleep_tiny")
    config.model.dtype = "bfloat16"
    config.mesh.tensor = 2
    lines = list(aot.forecast(config, "v5e:2x2", is_dry=False))
    text = "\n".join(lines)
    assert lines[0] == "tiny on v5e:2x2: 4 chips, mesh data 1 x fsdp 2 x tensor 2"
    assert "consolidate: update\n  HBM a chip" in text and "all-gather" in text
    assert "DOES NOT FIT" not in text
