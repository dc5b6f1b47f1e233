"""Run by test_shared_leaves: saves a state on a mesh of 8 CPU devices and restores it there.

Arguments: folder of the checkpoints, address of process 0, number of processes (1 or 2), index.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory, put_slot, take_slot
from sleep_jax.models.sharding import AXES, place, to_host
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.seeding.transaction import MemoryState


def states() -> dict[str, MemoryState]:
    """What a checkpoint holds: two slots of five differ."""
    memory = MemoryConfig((LevelConfig(slots=5, rank=4),), unit="episodes")
    evening = MemoryState(*init_memory(jax.random.key(0), memory, layers=2, width=16))
    night = evening
    for index in (1, 3):
        slot = jax.tree.map(lambda x, i=index: x + i, take_slot(night.memory, 1, index))
        night = night.replace(memory=put_slot(night.memory, 1, index, slot))
    return {"current": night, "before_sleep": evening, "before_dreams": night}


def main(folder, address, processes, index):
    """Saves and restores."""
    processes = int(processes)
    jax.config.update("jax_num_cpu_devices", 8 // processes)
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, num_processes=processes, process_id=int(index))
    jax.set_mesh(jax.make_mesh((2, 2, 2), AXES, (AxisType.Auto,) * 3))
    host = jax.tree.map(np.asarray, states())
    placed = {
        name: MemoryState(place(x.memory, "memory"), place(x.slots, "slots"))
        for name, x in host.items()
    }
    with PhaseCheckpoints(folder) as checkpoints:
        checkpoints.save(0, "learn", state=placed, record={})
        got, _ = checkpoints.restore(0, placed)
    same = jax.tree.map(lambda x, y: x.sharding == y.sharding, got, placed)
    same_bits = jax.tree.map(lambda x, y: x.tobytes() == y.tobytes(), to_host(got), host)
    assert jax.tree.all(same) and jax.tree.all(same_bits)
    assert jnp.ndim(got["current"].memory["layers"]["level_1"]["experts"]["up"]) == 4
    print("the same")


if __name__ == "__main__":
    main(*sys.argv[1:])
