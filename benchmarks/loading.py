"""The memory of a process that loads a model together with another one, each with half of it.

A folder in Hugging Face layout with random bfloat16 weights is written and deleted again: 2.5 GB
for the shape `1b` (Llama 3.2's), 16 GB for `8b` (Llama 3's). Prints a JSON line for each process
that loads: its share, the most that was resident before and while loading, files that it maps
included, and what of that is beyond the share.
"""

import argparse
import json
import math
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

import jax
import ml_dtypes
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType

from sleep_jax.interop.huggingface import config_fields
from sleep_jax.interop.load import load_model
from sleep_jax.interop.safetensors_writer import Tensor, write_shards
from sleep_jax.interop.tensors import CHUNK, leaves
from sleep_jax.interop.tiny import CHATML, byte_tokenizer
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import AXES

LLAMA = {"heads": 32, "kv_heads": 8, "rope_theta": 5e5, "norm_eps": 1e-5, "vocab": 128256}
SHAPES = {
    "tiny": {"width": 256, "hidden": 512, "layers": 2, "head_dim": 8, "tie_embeddings": True},
    "1b": {"width": 2048, "hidden": 8192, "layers": 16, "head_dim": 64, "tie_embeddings": True},
    "8b": {"width": 4096, "hidden": 14336, "layers": 32, "head_dim": 128},
}
SHARD_BYTES = 5 * 10**9


def write_model(folder: pathlib.Path, cfg: DecoderConfig) -> None:
    """Writes random weights, config and a tokenizer of bytes."""
    rng = np.random.default_rng(0)

    def rows(shape):
        step = max(1, CHUNK // math.prod(shape[1:]))
        for start in range(0, shape[0], step):
            part = min(step, shape[0] - start), *shape[1:]
            bits = np.frombuffer(rng.bytes(2 * math.prod(part)), np.uint16) & 0xBFFF  # below 2
            yield bits.view(ml_dtypes.bfloat16).reshape(part)

    tensors = [
        Tensor(name, leaf.shape, lambda shape=leaf.shape: rows(shape))
        for leaf in leaves(cfg)
        for name in leaf.huggingface
    ]
    write_shards(folder, tensors, "bfloat16", SHARD_BYTES)
    (folder / "config.json").write_text(json.dumps(config_fields(cfg, "bfloat16")))
    byte_tokenizer().backend.save(str(folder / "tokenizer.json"))
    tokenizer = {"chat_template": CHATML, "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def most_resident() -> int:
    """Bytes of this process that were in memory at most so far, mapped files included."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def load(folder: str, address: str, index: int, is_alone: bool) -> None:
    """One of the two processes; where one is alone, the second only joins it."""
    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=2, process_id=index)
    jax.set_mesh(jax.make_mesh((1, 2, 1), AXES, (AxisType.Auto,) * 3))
    multihost_utils.sync_global_devices("ready")
    if not index or not is_alone:
        before, start = most_resident(), time.monotonic()
        _, params, _ = load_model(folder, dtype="bfloat16")
        seconds, arrays = time.monotonic() - start, jax.tree.leaves(params)
        share = sum(x.data.nbytes for array in arrays for x in array.addressable_shards)
        peak = most_resident()
        figures = {"share": share, "before": before, "peak": peak, "beyond": peak - share}
        gib = {name: round(size / 2**30, 2) for name, size in figures.items()}
        of_model = round(sum(x.nbytes for x in arrays) / 2**30, 2)
        line = {"name": "loading", "process": index, "model_gib": of_model, "gib": gib}
        print(json.dumps(line | {"seconds": round(seconds, 1)}), flush=True)
    multihost_utils.sync_global_devices("loaded")


def main():
    """Writes the model and starts the two processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--folder", help="for the weights while this runs; None: a temporary one")
    parser.add_argument("--alone", action="store_true", help="the second process loads nothing")
    args = parser.parse_args()
    with socket.socket() as probe, tempfile.TemporaryDirectory(dir=args.folder) as folder:
        write_model(pathlib.Path(folder), DecoderConfig(**LLAMA | SHAPES[args.shape]))
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        probe.close()
        command = [sys.executable, __file__, folder, address]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        both = [
            subprocess.Popen([*command, str(i), str(int(args.alone))], env=environment)
            for i in range(2)
        ]
        codes = [process.wait() for process in both]
    sys.exit(max(codes))


if __name__ == "__main__":
    if len(sys.argv) == 5 and not sys.argv[1].startswith("-"):
        load(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1")
    else:
        main()
