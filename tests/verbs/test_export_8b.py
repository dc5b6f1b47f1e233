"""An export in the shape of Llama-3-8B: its memory stays bounded, and transformers finds the
right shapes in it.
"""

import json
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors import safe_open

GB, GIB = 10**9, 2**30
LAYERS = 32
# Weights are made as they are read: one random row of bfloat16, repeated. Printed: the bytes that
# the process had of its own when all was imported, and its most while it wrote (sampled).
WRITE = """
import pathlib, sys, threading, time
import ml_dtypes, numpy as np
from sleep_jax.export.hf import write_hugging_face
from sleep_jax.interop.absorb import Units
from sleep_jax.interop.absorbed_model import AbsorbedModel
from sleep_jax.interop.known_models import describe_model
from sleep_jax.interop.tensors import leaves
from sleep_jax.interop.tiny import byte_tokenizer

folder, layers = pathlib.Path(sys.argv[1]), int(sys.argv[2])
cfg = describe_model("Meta-Llama-3-8B-Instruct", dtype="bfloat16").replace(layers=layers)

class Generated:
    naming = "huggingface"
    shapes = {name: leaf.shape for leaf in leaves(cfg) for name in leaf.huggingface}
    shape = shapes.__getitem__

    def read(self, name, rows=slice(None)):
        shape = self.shapes[name]
        row = np.random.default_rng(0).normal(size=shape[-1]).astype(ml_dtypes.bfloat16)
        count = len(range(*rows.indices(shape[0])))
        return row if len(shape) == 1 else np.broadcast_to(row, (count, shape[1]))

def own_bytes():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(x for x in lines if x.startswith("RssAnon")).split()[1])

def slot(seed):
    normal = np.random.default_rng(seed).normal
    shapes = {"gate": (layers, 4096, 64), "up": (layers, 4096, 64), "down": (layers, 64, 4096)}
    return {name: normal(size=shape).astype(np.float32) for name, shape in shapes.items()}

model = AbsorbedModel(cfg, Generated(), Units((slot(0), slot(1)), 0, 256, 4096))
most, is_done = [own_bytes()], []
def watch():
    while not is_done:
        most.append(max(most[-1], own_bytes()))
        time.sleep(0.01)
watcher = threading.Thread(target=watch)
watcher.start()
write_hugging_face(folder, model, byte_tokenizer(), "bfloat16", 5 * 10**9)
is_done.append(True)
watcher.join()
print(most[0], most[-1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_export_of_8b_is_streamed_and_loads_on_meta(tmp_path):
    # 16 GB; where the disk has less, fewer layers: no tensor is smaller, and none is kept.
    layers = LAYERS if shutil.disk_usage(tmp_path).free > 30 * GB else 2
    command = [sys.executable, "-c", WRITE, str(tmp_path), str(layers)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    before, most = map(int, ran.stdout.split()[-2:])
    assert most - before < GIB, (before, most)

    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (config.intermediate_size, config.num_hidden_layers) == (14336 + 256, layers)
    with torch.device("meta"):
        peer = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    wanted = {name: tuple(x.shape) for name, x in peer.state_dict().items()}
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == wanted.keys()
    for file in set(index.values()):
        assert (tmp_path / file).stat().st_size < 5.1 * GB
        with safe_open(tmp_path / file, framework="numpy") as shard:
            for name in shard.keys():  # noqa: SIM118
                assert tuple(shard.get_slice(name).get_shape()) == wanted[name]
