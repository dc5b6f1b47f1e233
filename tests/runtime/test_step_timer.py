"""Costs of updates."""

import dataclasses
import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.runtime import step_timer
from sleep_jax.runtime.step_timer import Compilations, StepTimer, memory, update_flops

CFG = DecoderConfig(vocab=10, width=4, hidden=6, layers=3, heads=2, kv_heads=1, head_dim=2)


@pytest.fixture
def clock(monkeypatch):
    """A clock that is a second later at every reading."""
    monkeypatch.setattr(step_timer.time, "perf_counter", itertools.count(0.0).__next__)


def test_parts_of_an_iteration_add_up(clock):
    timer = StepTimer(CFG, "consolidate")
    timer.begin(0)  # one reading of the clock, as in each call below
    for part in ("rollout", "reward", "score"):
        timer.lap(part)
    got = timer.end([(2, 10, 4), (0, 6, 6)])
    parts = [got[f"time/{part}"] for part in ("rollout", "reward", "score", "update")]
    assert parts == [1, 1, 1, 1] and got["time/step"] == 4
    assert got["time/tokens_per_second"] == 16 / 4
    timer.begin(1)
    assert "time/rollout" not in timer.end([(0, 3, 1)])  # an update without a round


def test_mfu_is_left_out_where_the_peak_is_unknown(clock, monkeypatch):
    timer = StepTimer(CFG, "consolidate")
    timer.begin(0)
    assert "time/mfu" not in timer.end([(0, 6, 6)])
    monkeypatch.setattr(step_timer, "peak_flops", lambda kind: 1000.0)
    timer = StepTimer(CFG, "consolidate")
    timer.begin(0)
    want = update_flops(CFG, [(0, 6, 6)]) / (1000.0 * jax.device_count())
    assert timer.end([(0, 6, 6)])["time/mfu"] == want


def test_update_flops_by_hand():
    # A token and layer: q and o 4x4 each, k and v 4x2 each, FFN 3 of 4x6; a key: 4, twice.
    products, key, head = 2 * (32 + 16 + 72), 2 * 8, 2 * 4 * 10
    keys = (2 + 1) + (2 + 2) + 1  # the first sequence follows two tokens
    want = 2 * 3 * (3 * products + keys * key) + 4 * 5 * head
    assert update_flops(CFG, [(2, 2, 4), (0, 1, 1)]) == pytest.approx(want)
    memory = MemoryConfig((LevelConfig(slots=1, rank=2),), layers=(2,))
    above = dataclasses.replace(CFG, memory=memory)  # one layer above a trunk of two
    want = 2 * 1 * (3 * products + keys * key) + 4 * 5 * head
    assert update_flops(above, [(2, 2, 4), (0, 1, 1)]) == pytest.approx(want)


def test_compilations_counts_compiled_programs_alone():
    program = jax.jit(lambda x: x * 3.5 + 7)
    x = jnp.zeros(11)
    with Compilations() as compilations:
        program(x)
        program(x)
    program(jnp.zeros(12))
    assert compilations.count == 1


@pytest.mark.slow
def test_compilations_tells_compiled_programs_from_loaded_ones(tmp_path):
    """Two processes: the second loads what the first has kept."""
    script = (
        "import jax\n"
        "from sleep_jax.runtime.step_timer import Compilations\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)\n"
        "x = jax.numpy.zeros(11)\n"
        "with Compilations() as made:\n"
        "    jax.jit(lambda x: x * 3.5 + 7)(x)\n"
        "print(made.count, made.compiled, made.loaded)\n"
    )
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    runs = [
        subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True)
        for _ in range(2)
    ]
    assert [run.stdout.decode().split() for run in runs] == [["1", "1", "0"], ["1", "0", "1"]]


def test_memory_is_at_least_the_size_of_live_arrays():
    array = np.ones(2**27, np.int8)
    usage = memory()
    assert (
        usage["memory"] >= array.nbytes / 2**30 and usage["memory_peak"] >= usage["memory"] * 0.99
    )
