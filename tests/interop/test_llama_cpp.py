"""The library of llama.cpp: where it is looked for, and what it answers where there is one."""

import os
import pathlib

import numpy as np
import pytest
from families import write_family

from sleep_jax.interop import llama_cpp
from sleep_jax.interop.absorb import Units
from sleep_jax.interop.absorbed_model import AbsorbedModel
from sleep_jax.interop.gguf import decoder_config
from sleep_jax.interop.load import load_model, open_model


def test_find_library_in_the_given_folder_and_nowhere_else(tmp_path, monkeypatch):
    library = tmp_path / "release" / "bin" / "libllama.so"
    library.parent.mkdir(parents=True)
    (library.parent / "libllama-common.so").touch()
    with pytest.raises(FileNotFoundError, match=r"no llama\.cpp library \(libllama\.so"):
        llama_cpp.find_library(str(tmp_path))
    library.touch()
    assert llama_cpp.find_library(str(tmp_path)) == library
    assert llama_cpp.find_library(str(library)) == library
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    assert llama_cpp.find_library() == library


def test_find_library_beside_its_programs_and_in_node_modules(tmp_path, monkeypatch):
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert llama_cpp.find_library() is None
    program, library = tmp_path / "bin" / "llama-cli", tmp_path / "lib" / "libllama.dylib"
    for path in (program, library):
        path.parent.mkdir()
        path.touch()
    program.chmod(0o755)
    assert llama_cpp.find_library() == library
    package = pathlib.Path("node_modules/@node-llama-cpp/linux-x64/bins/linux-x64")
    package.mkdir(parents=True)
    (package / "libllama.v0.5.0.so").touch()
    assert llama_cpp.find_library() == package / "libllama.v0.5.0.so"


def test_ask_of_a_library_that_is_none_raises(tmp_path):
    library = tmp_path / "libllama.so"
    library.write_text("nothing")
    with pytest.raises(llama_cpp.LlamaCppError, match=r"llama\.cpp .* failed on model: .*libllama"):
        llama_cpp.ask(library, pathlib.Path("model"), texts=["a"])


@pytest.mark.skipif(not os.environ.get("LLAMA_CPP"), reason="LLAMA_CPP names no library")
def test_ask_answers_as_this_program(tmp_path, logits):
    gguf = pytest.importorskip("gguf")
    from sleep_jax.interop.gguf_writer import write_gguf

    cfg, weights, tokenizer = open_model(str(write_family("SmolLM2", tmp_path / "family")))
    rng = np.random.default_rng(0)
    expert = {
        name: 0.1 * rng.normal(size=shape).astype(np.float32)
        for name, shape in (("gate", (2, 64, 8)), ("up", (2, 64, 8)), ("down", (2, 8, 64)))
    }
    model = AbsorbedModel(cfg, weights, Units((expert,), 0, 128, 64))
    path = tmp_path / "x.gguf"
    write_gguf(path, model, tokenizer, gguf.GGMLQuantizationType.F16, "x")
    prompt = tokenizer.chat([{"role": "user", "content": "In the 1871 days?"}])
    text = tokenizer.chat_text([{"role": "user", "content": "In the 1871 days?"}])
    library = llama_cpp.find_library()
    reply = [7, 8, 9]
    asked = llama_cpp.ask(
        library, path, texts=[text], prompts=[prompt], max_new_tokens=3, replies=[reply]
    )
    assert asked["tokens"] == [prompt]
    cfg, params, _ = load_model(str(path), dtype="float32")
    assert cfg.hidden == decoder_config_of(path).hidden == 256
    tokens = np.asarray([[*prompt, *reply]], np.int32)
    scores = np.asarray(logits(cfg, {"params": params}, tokens), np.float64)[0]
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
    want = [scores[len(prompt) - 1 + i, token] for i, token in enumerate(reply)]
    np.testing.assert_allclose(asked["log_probs"][0], want, atol=5e-3)
    assert asked["replies"][0][0] == scores[len(prompt) - 1].argmax()


def decoder_config_of(path):
    from sleep_jax.interop.gguf import GGUFFile

    return decoder_config(GGUFFile(path))
