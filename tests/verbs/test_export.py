"""`export RUN --to=... FOLDER`, on tiny runs: what is written, checked and refused."""

import functools
import json
import pathlib
import re

import jax
import numpy as np
import pytest
import torch
import transformers
from families import write_family
from safetensors.numpy import load_file, save_file
from slept_run import TITLE, model_of, write_slept_run

from sleep_jax.export.delta import WEIGHTS, load_delta
from sleep_jax.export.options import bytes_of
from sleep_jax.export.programs import TransformersProgram
from sleep_jax.interop.absorb import Units
from sleep_jax.interop.absorbed_model import AbsorbedModel
from sleep_jax.interop.gguf import GGUFFile
from sleep_jax.interop.gguf_writer import write_gguf
from sleep_jax.interop.load import load_model, open_model
from sleep_jax.verbs.main import main

TOKENS = np.random.default_rng(0).integers(0, 250, (2, 16)).astype(np.int32)


@pytest.fixture(scope="module")
def family_run(tmp_path_factory):
    """A run on a folder of the SmolLM2 family, in float32."""
    folder = tmp_path_factory.mktemp("run")
    base = write_family("SmolLM2", folder / "base")
    return write_slept_run(folder / "run", base)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """workdir of a run on `tiny`, by the changes of its config."""

    @functools.cache
    def written(**changes):
        return write_slept_run(tmp_path_factory.mktemp("tiny"), **changes)

    return written


def exported(run, folder, *arguments):
    """The exit status of the command."""
    return main(["export", str(run), str(folder), *arguments])


def test_export_to_hf_is_the_run_in_transformers(family_run, tmp_path, logits, capsys):
    folder = tmp_path / "slept"
    assert exported(family_run, folder, "--to=hf", "--questions=3", "--shard_size=150KB") == 0
    shown = capsys.readouterr().out
    assert "3 of 3 greedy replies as the run's, 3 of 3 prompts (transformers" in shown
    assert shown.rstrip().endswith(f"done: {folder}")
    assert not folder.with_name("slept.unverified").exists()
    assert len([*folder.glob("model-*.safetensors")]) > 1
    config = json.loads((folder / "config.json").read_text())
    assert config["intermediate_size"] == 256  # 128 and two slots of rank 4, padded
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert peer.dtype == torch.float32
    with torch.no_grad():
        got = peer(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()
    np.testing.assert_allclose(got, logits(*model_of(family_run), TOKENS), atol=2e-5)


def test_export_to_hf_writes_a_card(family_run, tmp_path):
    assert exported(family_run, tmp_path / "x", "--to=hf", "--questions=0") == 0
    text = (tmp_path / "x" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\n")
    sizes = "Served by vLLM and SGLang on 1, 2 or 4 devices (tensor parallel)"
    for words in (TITLE, "| after dreaming | 50 % | 9.50 |", "128, 8 of the memory, and 120 zero",
                  "- It was not verified.", "`memory.ranks = [4]`", sizes):  # fmt: skip
        assert words in text, words


def test_export_that_loses_the_memory_is_refused(tiny_run, tmp_path, monkeypatch, capsys):
    def forgetful(self, layer):
        return {
            name: np.zeros((self.d, self.width) if name == "down" else (self.width, self.d))
            for name in ("gate", "up", "down")
        }

    monkeypatch.setattr(Units, "of_layer", forgetful)
    folder = tmp_path / "slept"
    assert exported(tiny_run(), folder, "--to=hf", "--questions=3") == 2
    error = capsys.readouterr().err
    assert "the export is not the model of" in error and "nats a token from the run's" in error
    assert not folder.exists()
    assert (tmp_path / "slept.unverified" / "model.safetensors").exists()


@pytest.fixture
def alone(monkeypatch):
    """No transformers here: exports are read again by this program."""
    monkeypatch.setattr(TransformersProgram, "is_installed", lambda: False)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_export_that_is_read_again_is_the_run(dtype, tiny_run, tmp_path, alone, capsys):
    run = tiny_run(model__dtype="bfloat16", memory__scale=0.7)
    assert exported(run, tmp_path / "x", "--to=hf", "--questions=3", f"--dtype={dtype}") == 0
    shown = capsys.readouterr().out
    assert re.search(rf"3 of 3 greedy replies.*sleep_jax.*{dtype}; both computed in float32", shown)
    distance, floor = measured(shown)
    assert 0 < distance < 2 * floor < 2e-3


def measured(shown):
    """The distance from the run, and the noise floor, that were printed."""
    found = re.search(r"log-probabilities (\S+) nats a token .*; noise floor (\S+) \(", shown)
    return tuple(map(float, found.groups()))


@pytest.mark.parametrize("wrong", ["a slot of two is missing", "scaled by 1.02"])
def test_export_that_is_read_again_and_differs_is_refused(
    wrong, tiny_run, tmp_path, alone, monkeypatch, capsys
):
    of_layer = Units.of_layer

    def changed(self, layer):
        units = of_layer(self, layer)
        down = 1.02 * units["down"] if "scaled" in wrong else units["down"].copy()
        if "missing" in wrong:
            down[:, :4] = 0
        return units | {"down": down}

    monkeypatch.setattr(Units, "of_layer", changed)
    run = tiny_run(model__dtype="bfloat16", memory__scale=0.7)
    assert exported(run, tmp_path / "x", "--to=hf", "--questions=3") == 2
    assert "nats a token from the run's, more than 0.000" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", ["base", "F16"])
def test_export_to_gguf_is_the_run(kind, family_run, tmp_path, logits):
    base = pathlib.Path(family_run).parent / "base"
    if kind == "base":
        cfg, weights, tokenizer = open_model(str(base))
        base = tmp_path / "base.gguf"
        bare = AbsorbedModel(cfg, weights, Units((), 0, 0, cfg.width))
        from gguf import GGMLQuantizationType

        write_gguf(base, bare, tokenizer, GGMLQuantizationType.Q8_0, "base")
    run = write_slept_run(tmp_path / "run", base)
    assert exported(run, tmp_path / "x", "--to=gguf", f"--type={kind}", "--questions=0") == 0
    [file] = (tmp_path / "x").glob("*.gguf")
    cfg, params, _ = load_model(str(file), dtype="float32")
    want = logits(*model_of(run), TOKENS)
    got = logits(cfg, {"params": params}, TOKENS)
    error = np.abs(got - want).max()
    assert error < (0.1 if kind == "base" else 5e-3), error  # the slots in Q8_0, all in F16
    if kind == "base":
        before, after = GGUFFile(base), GGUFFile(file)
        untouched = [name for name in before.names() if "ffn_" not in name or "norm" in name]
        assert all(np.array_equal(before.stored(x), after.stored(x)) for x in untouched)


@pytest.mark.parametrize(
    "changes",
    [
        {"model__dtype": "bfloat16"},
        {"memory__layers": "1", "memory__router": "sigmoid"},
        {"memory__expert": "bottleneck", "memory__layout": "chain"},
    ],
    ids=str,
)
def test_export_to_delta_loads_to_the_bit(changes, tiny_run, tmp_path, logits):
    run = tiny_run(**changes)
    assert exported(run, tmp_path / "delta", "--to=delta", "--questions=0") == 0
    loaded, (cfg, variables) = load_delta(tmp_path / "delta"), model_of(run)
    assert loaded.cfg == cfg
    assert loaded.record["days"][0]["asked"][0]["document"] == TITLE
    got = np.asarray(logits(loaded.cfg, loaded.variables, TOKENS))
    np.testing.assert_array_equal(got, logits(cfg, variables, TOKENS))
    bare = variables | {"slots": jax.tree.map(np.zeros_like, variables["slots"])}
    assert np.abs(got - logits(cfg, bare, TOKENS)).max() > 0.01


def test_export_to_delta_holds_slots_in_use_alone(tiny_run, tmp_path):
    run = tiny_run(model__dtype="bfloat16")
    assert exported(run, tmp_path / "delta", "--to=delta", "--questions=0") == 0
    weights = load_file(tmp_path / "delta" / WEIGHTS)
    parts = [f"level_1.slot_{i}.{leaf}" for i in (0, 1) for leaf in ("gate", "up", "down")]
    assert weights.keys() == {"level_1.active", *parts}
    assert weights["level_1.slot_1.down"].shape == (2, 4, 64)  # layers, rank, d
    assert {str(weights[name].dtype) for name in parts} == {"bfloat16"}


def test_load_delta_of_another_base_raises(tiny_run, family_run, tmp_path):
    assert exported(tiny_run(), tmp_path / "delta", "--to=delta", "--questions=0") == 0
    manifest = json.loads((tmp_path / "delta" / "delta.json").read_text())
    manifest["config"]["seed"] = 5  # of the random weights of `tiny`
    (tmp_path / "delta" / "delta.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"model\.name=.tiny. has the weights .*put the model of"):
        load_delta(tmp_path / "delta")
    with pytest.raises(FileNotFoundError, match=r"no delta\.json in"):
        load_delta(tmp_path)


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("level_1.slot_0.up", np.zeros((2, 64, 1), np.float32), r"level_1\.slot_0\.up has shape"),
        ("level_2.slot_0.up", np.zeros((2, 64, 4), np.float32), r"level_2\.slot_0\.up"),
        ("level_1.slot_3.up", np.zeros((2, 64, 4), np.float32), r"level_1\.slot_3\.up"),
    ],
)
def test_load_delta_of_a_damaged_file_raises(name, tensor, words, tiny_run, tmp_path):
    assert exported(tiny_run(), tmp_path / "delta", "--to=delta", "--questions=0") == 0
    path = tmp_path / "delta" / WEIGHTS
    save_file(load_file(path) | {name: tensor}, path)
    with pytest.raises(ValueError, match=f"is damaged, or not the memory of this .*{words}"):
        load_delta(tmp_path / "delta")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged, or not the memory of this config"):
        load_delta(tmp_path / "delta")


def test_export_that_fails_leaves_nothing(tiny_run, tmp_path, monkeypatch, capsys):
    def fail(*arguments):
        raise OSError("the disk is full")

    monkeypatch.setattr("sleep_jax.export.hf.write_shards", fail)
    assert exported(tiny_run(), tmp_path / "x", "--to=hf", "--questions=0") == 1
    assert "error: the disk is full" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"memory__router": "sigmoid"}, "memory.router='sigmoid'"),
        ({"memory__expert": "bottleneck"}, "memory.expert='bottleneck'"),
        ({"memory__layout": "chain"}, "memory.layout='chain'"),
    ],
)
@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_export_of_memory_that_is_no_ffn_is_refused(changes, field, to, tiny_run, tmp_path, capsys):
    assert exported(tiny_run(**changes), tmp_path / "x", f"--to={to}", "--questions=0") == 2
    error = capsys.readouterr().err
    assert f"error: {field} cannot be absorbed into an FFN" in error and "--to=delta" in error
    assert not [*tmp_path.iterdir()]


def test_export_to_peft_of_swiglu_slots_is_refused(tiny_run, tmp_path, capsys):
    assert exported(tiny_run(), tmp_path / "x", "--to=peft", "--questions=0") == 2
    error = capsys.readouterr().err
    assert "error: memory.expert='swiglu' is no LoRA; take --to=delta" in error
    assert not [*tmp_path.iterdir()]


def test_export_before_a_night_is_refused(tmp_path, capsys):
    run = write_slept_run(tmp_path / "run", slots=0)
    assert exported(run, tmp_path / "x", "--to=hf") == 2
    assert "no night has left anything yet (done: wake, consolidate)" in capsys.readouterr().err


def test_export_into_an_existing_folder_is_refused(tiny_run, tmp_path, capsys):
    (tmp_path / "x").mkdir()
    assert exported(tiny_run(), tmp_path / "x", "--to=delta") == 2
    assert f"{tmp_path / 'x'} exists; delete it, or give another" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pad=0"], "--pad=0; give 1 or more"),
        (["--questions=-1"], "--questions=-1; give 0 or more"),
        (["--shard_size=big"], "--shard_size='big'; give a size such as 5GB"),
    ],
)
def test_export_refuses_values_out_of_range(arguments, words, tmp_path, capsys):
    assert exported(tmp_path, tmp_path / "x", "--to=hf", *arguments) == 2
    assert words in capsys.readouterr().err


def test_bytes_of_a_size():
    assert [*map(bytes_of, ("5GB", "1.5 mb", "800KB", "2g", "17"))] == [
        5 * 10**9,
        1_500_000,
        800_000,
        2 * 10**9,
        17,
    ]
