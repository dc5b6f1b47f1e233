"""A run in the shape of Qwen3-8B (36 layers of width 4096, one level of 5 slots of rank 64): what a
person asks of it takes seconds, and no more memory than a small part of one checkpoint.
"""

import resource
import subprocess
import sys

import jax
import numpy as np
import pytest

from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory, put_slot, take_slot, unlock
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.seeding.transaction import MemoryState

SECONDS, GIB = 10, 2
# The peak that a parent reads of a child (ru_maxrss) is never below its own; VmHWM is the child's.
ASK = """
import sys
from sleep_jax.verbs.main import main
status = main(["inspect", *sys.argv[1:]])
print(next(line for line in open("/proc/self/status") if "VmHWM" in line), file=sys.stderr)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def run_8b(tmp_path_factory):
    """Two phases, about 3 GB: every slot but the last is in use, then all are."""
    workdir = tmp_path_factory.mktemp("8b")
    config = MemoryConfig((LevelConfig(slots=5, rank=64),))
    memory, slots = init_memory(jax.random.key(0), config, layers=36, width=4096)
    rng = np.random.default_rng(0)
    phases = {}
    with PhaseCheckpoints(workdir / "checkpoints") as saved:
        for number in range(5):
            slots, index = unlock(slots, 1)
            slot = take_slot(memory, 1, index)
            slot |= {"down": rng.normal(size=slot["down"].shape).astype(np.float32)}
            memory = put_slot(memory, 1, index, slot)
            phases[f"consolidate-{number + 1}"] = {"tokens": 1, "seconds": 1.0}
            if number > 2:
                now = MemoryState(memory, slots)
                state = {"current": now, "before_sleep": now, "before_dreams": now}
                run = {"phases": phases, "days": []}
                saved.save(
                    number, f"consolidate-{number + 1}", state=state,
                    record={"config": {}, "run": run},
                )  # fmt: skip
    return workdir


def processor_seconds() -> float:
    """Of ended children; unlike those of a clock they do not grow where others compute, too."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


@pytest.mark.slow
@pytest.mark.parametrize(
    "question",
    [
        (),
        ("slots", "--json"),
        ("changes", "consolidate-4", "consolidate-5"),
        ("restore", "current.memory.layers.level_1.experts", "{run}/slot.npz", "--slot=4"),
    ],
)
def test_inspect_of_an_8b_run_takes_seconds_and_little_memory(run_8b, question):
    arguments = [str(run_8b), *(word.format(run=run_8b) for word in question)]
    before = processor_seconds()
    done = subprocess.run(
        [sys.executable, "-c", ASK, *arguments], capture_output=True, text=True, check=False
    )
    seconds, gib = processor_seconds() - before, int(done.stderr.split()[-2]) / 2**20
    print(f"{' '.join(question) or 'all'}: {seconds:.1f} s, {gib:.2f} GiB")
    assert (done.returncode, bool(done.stdout)) == (0, True), done.stderr
    assert seconds < SECONDS and gib < GIB
