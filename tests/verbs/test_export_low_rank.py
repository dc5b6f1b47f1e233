"""`export` of a run with `memory.expert="lora"`: an adapter, merged, its slots, or refused."""

import json
import re

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from slept_run import model_of, write_slept_run

from sleep_jax.export.delta import load_delta
from sleep_jax.export.hf import written_base
from sleep_jax.export.peft import read_adapter
from sleep_jax.export.programs import PeftProgram, TransformersProgram
from sleep_jax.export.run_model import RunModel
from sleep_jax.interop.load import load_model
from sleep_jax.interop.tensors import join_stacks
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.verbs.main import main

TOKENS = np.random.default_rng(0).integers(0, 250, (2, 16)).astype(np.int32)
EQUAL = "2 of 2 greedy replies as the run's, 2 of 2 prompts"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose second layer has two slots of rank 4 in use."""
    changes = {"memory__expert": "lora", "memory__scale": 0.5, "memory__layers": "1"}
    return write_slept_run(tmp_path_factory.mktemp("run"), **changes)


@pytest.fixture
def run_logits(run, logits):
    """Those of the run, and of its base."""
    cfg, variables = model_of(run)
    bare = variables | {"slots": jax.tree.map(np.zeros_like, variables["slots"])}
    return np.asarray(logits(cfg, variables, TOKENS)), np.asarray(logits(cfg, bare, TOKENS))


def exported(run, folder, *arguments):
    """The exit status of the command."""
    return main(["export", str(run), str(folder), *arguments])


@pytest.mark.parametrize(
    "program", ["transformers", pytest.param("sleep_jax", marks=pytest.mark.slow)]
)
def test_export_to_hf_is_merged(program, run, run_logits, tmp_path, logits, monkeypatch, capsys):
    if program == "sleep_jax":
        monkeypatch.setattr(TransformersProgram, "is_installed", lambda: False)
    folder = tmp_path / "x"
    assert exported(run, folder, "--to=hf", "--questions=2") == 0
    assert f"{EQUAL} ({program}" in capsys.readouterr().out
    assert not [path for path in folder.iterdir() if path.is_dir()]
    assert "base are the sum of what they were and" in (folder / "README.md").read_text()
    cfg, params, _ = load_model(str(folder), dtype="float32")
    assert cfg.hidden == RunModel.open(run).base.cfg.hidden  # nothing is appended
    want, bare = run_logits
    got = logits(cfg, {"params": params}, TOKENS)
    np.testing.assert_allclose(got, want, atol=5e-5)
    assert np.abs(got - bare).max() > 0.01


def test_export_to_peft_holds_the_slots_side_by_side(run, run_logits, tmp_path, logits):
    folder = tmp_path / "x"
    assert exported(run, folder, "--to=peft", "--questions=0") == 0
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["layers_to_transform"]) == (8, [1])
    assert repr(config["lora_alpha"]) == "4"  # 0.5 * 8
    weights = load_file(folder / "adapter_model.safetensors")
    run_cfg, variables = model_of(run)
    assert len(weights) == 6
    bank = variables["memory"]["layers"]["level_1"]["experts"]
    name = "base_model.model.model.layers.1.mlp.{}_proj.lora_{}.weight".format
    for slot in (0, 1):
        part = slice(4 * slot, 4 * slot + 4)
        np.testing.assert_array_equal(weights[name("up", "A")][part], bank["up_a"][0, slot].T)
        np.testing.assert_array_equal(
            weights[name("down", "B")][:, part], bank["down_b"][0, slot].T
        )
    lora, terms = read_adapter(folder, run_cfg)
    cfg = run_cfg.replace(memory=MemoryConfig(), lora=lora)
    variables = {"params": join_stacks(run_cfg, variables["params"]), "lora": terms}
    np.testing.assert_allclose(logits(cfg, variables, TOKENS), run_logits[0], atol=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["hf", "peft"])
def test_export_in_16_bits_that_is_read_again_is_the_run(to, tmp_path, monkeypatch, capsys):
    for program in (PeftProgram, TransformersProgram):
        monkeypatch.setattr(program, "is_installed", lambda: False)
    changes = {"memory__expert": "lora", "memory__scale": 0.5, "model__dtype": "bfloat16"}
    run = write_slept_run(tmp_path / "run", **changes)
    assert exported(run, tmp_path / "x", f"--to={to}", "--questions=2") == 0
    shown = capsys.readouterr().out
    assert f"{EQUAL} (sleep_jax" in shown
    found = re.search(r"log-probabilities (\S+) nats .*; noise floor (\S+) \(", shown)
    distance, floor = map(float, found.groups())
    assert 0 < distance < 2 * floor < 5e-3


def test_export_to_peft_is_the_run_in_peft(run, run_logits, tmp_path, capsys):
    peft = pytest.importorskip("peft")
    folder = tmp_path / "x"
    assert exported(run, folder, "--to=peft", "--questions=2") == 0
    assert f"{EQUAL} (peft" in capsys.readouterr().out
    with written_base(RunModel.open(run).base, tmp_path, "float32") as path:
        base = transformers.AutoModelForCausalLM.from_pretrained(path, dtype="auto")
    peer = peft.PeftModel.from_pretrained(base, folder).eval()
    with torch.no_grad():
        got = peer(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()
        merged = peer.merge_and_unload()(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()
    np.testing.assert_allclose(got, run_logits[0], atol=5e-5)
    np.testing.assert_allclose(merged, run_logits[0], atol=5e-5)


def test_export_to_delta_loads_to_the_bit(run, run_logits, tmp_path, logits):
    assert exported(run, tmp_path / "delta", "--to=delta", "--questions=0") == 0
    loaded = load_delta(tmp_path / "delta")
    np.testing.assert_array_equal(logits(loaded.cfg, loaded.variables, TOKENS), run_logits[0])


def test_export_to_gguf_is_refused(run, tmp_path, capsys):
    assert exported(run, tmp_path / "x", "--to=gguf", "--questions=0") == 2
    error = capsys.readouterr().err
    assert "error: memory.expert='lora' cannot be absorbed into an FFN: its terms" in error
    assert "--to=peft" in error
