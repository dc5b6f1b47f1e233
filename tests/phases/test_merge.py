"""A level whose slots run out makes one of them and goes on."""

import runpy

import jax
import numpy as np
import pytest
from hurry import Hurry

from sleep_jax import lifecycle
from sleep_jax.experiment import load_experiment
from sleep_jax.report import comparison
from sleep_jax.runtime.metrics import read_metrics
from sleep_jax.runtime.preemption import Preempted


@pytest.mark.slow
def test_merge_stopped_midway_ends_with_the_same_bits(tmp_path):
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.data.documents, config.data.episodes = "samples:3", 3
    config.memory.slots, config.memory.on_full = (3,), "merge"
    config.dreaming.steps = 0
    config.seeding.steps = 8  # more than a `Hurry` lets pass, so that it stops the merge as well
    experiment = load_experiment(config)
    run = lifecycle.run(experiment, str(tmp_path / "whole"), quiet=True)
    phases = run.record["phases"]
    assert phases["merge"]["levels"] == "1 -> 1" and np.isfinite(phases["merge"]["kl_after"])
    active = np.asarray(run.current.slots["layers"]["level_1"]["active"])
    assert active.tolist() == [[True, True, False]] * len(active)  # the merged one and the last
    lines = [x for x in read_metrics(tmp_path / "whole") if "kl_off" in x]
    assert len({(x["phase"], x["step"]) for x in lines}) == len(lines) == 4 * config.seeding.steps
    nights = {x["phase"] for x in comparison.nights(tmp_path / "whole")}
    assert nights == {"consolidate", "consolidate-2", "consolidate-3"}
    stops, watch = [], Hurry()
    while True:
        try:
            again = lifecycle.run(experiment, str(tmp_path / "stopped"), quiet=True, watch=watch)
            break
        except Preempted as stopped:
            stops.append(stopped.where)
    assert any("updates of merge" in stop for stop in stops), stops
    assert jax.tree.all(jax.tree.map(np.array_equal, again.arrays, run.arrays))
