"""Run by test_sharded_loading: loads models on a mesh of 8 CPU devices. Prints, as JSON, the
fingerprint of each, the bytes that this process holds, and those of the whole model.

Arguments: a mesh such as `2,2,2`; then models. With PROCESS=ADDRESS,INDEX in the environment it is
one of two processes, with 4 of the devices each.
"""

import json
import os
import sys

import jax
from jax.sharding import AxisType

from sleep_jax.interop.fingerprint import fingerprint
from sleep_jax.interop.load import load_model
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.models.sharding import AXES, shardings

MEMORY = MemoryConfig((LevelConfig(),), layers="last_quarter")  # the decoder has a trunk


def main(mesh, *names):
    """Loads the models."""
    if process := os.environ.get("PROCESS"):
        address, index = process.split(",")
        jax.config.update("jax_num_cpu_devices", 4)
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, num_processes=2, process_id=int(index))
    else:
        jax.config.update("jax_num_cpu_devices", 8)
    jax.set_mesh(jax.make_mesh(map(int, mesh.split(",")), AXES, (AxisType.Auto,) * 3))
    lines = []
    for name in names:
        _, params, _ = load_model(name, dtype="bfloat16", memory=MEMORY)
        expected = shardings(params, "params", jax.sharding.get_mesh())
        assert all(jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding == s, params, expected)))
        leaves = jax.tree.leaves(params)
        parts = [{str(x.index): x.data.nbytes for x in leaf.addressable_shards} for leaf in leaves]
        held = sum(sum(part.values()) for part in parts)
        lines.append([fingerprint(params), held, sum(x.nbytes for x in leaves)])
    print(json.dumps(lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
