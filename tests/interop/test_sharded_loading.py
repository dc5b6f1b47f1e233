"""Loading a model on a mesh: the same bits, and each process has only its own parts of them."""

import json
import os
import socket
import subprocess
import sys

import jax
import pytest
import sharded_loading
from families import write_family

from sleep_jax.interop import tensors
from sleep_jax.interop.absorb import Units
from sleep_jax.interop.absorbed_model import AbsorbedModel
from sleep_jax.interop.fingerprint import fingerprint
from sleep_jax.interop.gguf_writer import Kind, write_gguf
from sleep_jax.interop.load import load_model, open_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of Qwen 3's family, with a head and norms of queries and keys, and a GGUF file of
    Llama's, whose query and key rows are in another order."""
    folder = tmp_path_factory.mktemp("models")
    qwen = write_family("Qwen3-8B", folder / "qwen", num_hidden_layers=4)
    cfg, weights, tokenizer = open_model(str(write_family("SmolLM2", folder / "smol")))
    absorbed = AbsorbedModel(cfg, weights, Units((), 0, 0, cfg.width))
    write_gguf(folder / "smol.gguf", absorbed, tokenizer, Kind.F16, "x")
    return [str(qwen), str(folder / "smol.gguf")]


def ran(mesh, names, **environment):
    """A process that loads the models."""
    command = [sys.executable, sharded_loading.__file__, mesh, *names]
    path = {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | path | environment, **pipes)


def results_of(process):
    """(fingerprint, bytes held, bytes in all) of each model."""
    out, err = process.communicate()
    assert process.returncode == 0, err[-4000:]
    return json.loads(out.splitlines()[-1])


def expected(names):
    """The fingerprints on one device."""
    loaded = [load_model(n, dtype="bfloat16", memory=sharded_loading.MEMORY)[1] for n in names]
    return [fingerprint(params) for params in loaded]


@pytest.mark.slow
def test_loading_on_a_mesh_gives_the_same_bits(models):
    results = results_of(ran("2,2,2", models))
    assert [line[0] for line in results] == expected(models)


@pytest.mark.slow
def test_loading_in_two_processes_gives_the_same_bits_and_each_holds_a_half(models):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    both = [ran("1,2,4", models, PROCESS=f"{address},{i}") for i in range(2)]
    for process in both:
        for (name, held, total), want in zip(results_of(process), expected(models), strict=True):
            assert name == want
            assert held < 0.51 * total  # all but the norms are split


@pytest.mark.parametrize("chunk", [1, 100, 2**23])
def test_loading_in_chunks_gives_the_same_bits(chunk, models, monkeypatch):
    want = expected(models)
    monkeypatch.setattr(tensors, "CHUNK", chunk)
    assert expected(models) == want


def test_loading_gives_arrays_that_a_cpu_device_takes_without_a_copy(models):
    params = load_model(models[0], dtype="float32")[1]
    for x in jax.tree.leaves(params):
        assert jax.device_put(x).unsafe_buffer_pointer() == x.ctypes.data
