"""Runs of several days on the tiny model: levels above the first, and slots that run out."""

import json
import shutil

import pytest
from articulate import articulate
from tiny_run import active, equal, tiny_config

from sleep_jax import lifecycle
from sleep_jax.continuation import load_continued
from sleep_jax.data.documents import read_source
from sleep_jax.experiment import load_experiment
from sleep_jax.memory.slots import SlotsExhausted
from sleep_jax.report import comparison
from sleep_jax.report.html_report import write_report
from sleep_jax.report.summary import summarise
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.runtime.workdir import check_same_config


@pytest.fixture(scope="module", autouse=True)
def dreaming():
    """The tiny model dreams in all that follows."""
    with pytest.MonkeyPatch.context() as patch:
        articulate(patch)
        yield


def config_of_levels(documents, days):
    """Two levels that learn by day."""
    config = tiny_config()
    config.data.documents, config.data.episodes = documents, days
    config.memory.periods, config.memory.slots = (1, 0), (1, 2)
    config.memory.learning_rates = (5.0, 0.0)
    config.memory.stride = 64
    config.wake.context = 512
    return config


@pytest.fixture(scope="module")
def several_days(tmp_path_factory):
    """Two days, one document each."""
    experiment = load_experiment(config_of_levels("samples:2", 2))
    workdir = tmp_path_factory.mktemp("days")
    return experiment, workdir, lifecycle.run(experiment, str(workdir), quiet=True)


@pytest.mark.slow
def test_run_moves_knowledge_up_one_level_a_night(several_days):
    experiment, workdir, run = several_days
    levels = [f["levels"] for name, f in run.record["phases"].items() if "consol" in name]
    assert levels == ["1 -> 2", "0 -> 1", "1 -> 2", "0 -> 1"]
    asleep = [facts for name, facts in run.record["phases"].items() if "consol" in name]
    assert not any("skipped" in facts for facts in asleep)
    # Level 1 was cleared and given the last day, level 2 has a slot of each night.
    assert active(run.current, 1) == [1, 1] and active(run.current, 2) == [2, 2]
    assert [day["slot"] for day in run.record["days"]] == [0, 0]
    wake = run.current.memory["layers"]["level_1"]["wake"]
    assert not wake["down"].any() and equal(wake, run.current.wake.wake["level_1"])
    assert run.record["phases"]["wake-2"]["updates_level_1"] == 1
    summary = summarise(experiment, run)
    assert [len(row) for row in summary["recall"]] == [1, 2]
    assert "What it keeps" in write_report(workdir, summary).read_text()


@pytest.mark.slow
def test_days_given_in_two_calls_end_with_the_same_bits(several_days, tmp_path):
    want = several_days[2]
    experiment = load_experiment(config_of_levels("samples:1", 1))
    lifecycle.run(experiment, str(tmp_path), quiet=True)
    experiment = load_continued(tmp_path, read_source("samples:2-2"))
    run = lifecycle.run(experiment, str(tmp_path), quiet=True)
    assert equal(run.arrays, want.arrays)
    assert json.dumps(run.record["days"]) == json.dumps(want.record["days"])


@pytest.mark.slow
def test_reuse_trains_the_slot_of_the_first_night(tmp_path):
    config = tiny_config()
    config.data.episodes, config.dreaming.steps = 2, 0
    config.memory.slots, config.memory.on_full = (1,), "reuse"
    experiment = load_experiment(config)
    run = lifecycle.run(experiment, str(tmp_path), quiet=True)
    assert active(run.current) == [1, 1] and active(run.before_sleep) == [1, 1]
    assert [day["slot"] for day in run.record["days"]] == [0, 0]
    assert not equal(run.before_sleep.memory, run.current.memory)
    assert comparison.at_the_end(tmp_path)["earlier"] == 0.0


@pytest.mark.slow
def test_run_out_of_slots_resumes_with_another_on_full(tmp_path):
    config = tiny_config()
    config.data.episodes, config.memory.slots, config.dreaming.steps = 2, (1,), 0
    experiment = load_experiment(config)
    with pytest.raises(SlotsExhausted, match="'skip' or 'reuse' to continue this run"):
        lifecycle.run(experiment, str(tmp_path), quiet=True)
    for on_full, reason in (("skip", "level 1 is full"), ("reuse", None)):
        config.memory.on_full = on_full
        workdir = tmp_path / on_full
        shutil.copytree(tmp_path / "checkpoints", workdir / "checkpoints")
        check_same_config(experiment.config.to_dict(), config.to_dict(), workdir, is_under_way=True)
        run = lifecycle.run(load_experiment(config), str(workdir), quiet=True)
        assert run.record["phases"]["consolidate-2"].get("skipped") == reason
        with PhaseCheckpoints(workdir / "checkpoints") as saved:
            last, _ = saved.latest()
            kept = [saved.record(i)["config"]["memory"]["on_full"] for i in (0, last)]
        assert kept == ["error", on_full]
