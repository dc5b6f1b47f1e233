"""A day and its night on a model whose mixer is a recurrence: no phase depends on attention."""

import functools
import runpy

import jax
import numpy as np
import pytest
from articulate import articulate
from recurrence import Recurrence

from sleep_jax import experiment as experiments
from sleep_jax import lifecycle
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.mixer import get_mixer
from sleep_jax.phases.evaluate import STAGES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def experiment():
    """One level that learns by day, and sleeps; dreams are rewarded whatever they are."""
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.memory.periods, config.memory.slots = (1, 0), (2, 2)
    config.memory.learning_rates = (500.0, 0.0)  # gradients of random weights are small
    config.memory.stride, config.wake.context = 64, 512
    with pytest.MonkeyPatch.context() as patch:
        recurrent = functools.partial(experiments.tiny_model, mixer="recurrence")
        patch.setattr(experiments, "tiny_model", recurrent)
        return experiments.load_experiment(config)


@pytest.fixture(scope="module")
def after(experiment, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        articulate(patch)
        return lifecycle.run(experiment, str(tmp_path_factory.mktemp("run")), quiet=True)


def test_recurrent_model_runs_a_whole_night(experiment, after):
    assert get_mixer(experiment.cfg.mixer) is Recurrence
    assert "attention" not in experiment.params["layers"]
    phases = after.record["phases"]
    assert list(phases) == [scheduled.label for scheduled in experiment.schedule]
    assert not [x for x in phases.values() if "skipped" in x and x.get("levels") != "1 -> 2"]
    [day] = after.record["days"]
    assert list(day["scores"]) == list(STAGES)
    assert day["dreams"] and all(np.isfinite(day["rewards"]))


def test_recurrent_model_learns_by_day_and_by_night(experiment, after):
    before = lifecycle.init_run_state(experiment)
    wake = after.current.wake
    assert int(wake.updates["level_1"]) + int(wake.is_due["level_1"]) == 1
    old, new = (
        state.current.memory["layers"]["level_1"]["experts"]["down"] for state in (before, after)
    )
    assert np.abs(new - old).max() > 0
    tokens = np.arange(12, dtype=np.int32)[None]
    apply = jax.jit(Decoder(experiment.cfg).apply)
    old, new = (apply(s.current.variables(experiment.params), tokens) for s in (before, after))
    assert np.isfinite(new).all() and np.abs(new - old).max() > 0
