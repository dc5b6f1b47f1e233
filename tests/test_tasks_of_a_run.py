"""A night of the tiny model with tasks: it records them, and resumes with the same bits."""

import dataclasses
import json

import pytest

pytest.importorskip("lm_eval")
from tiny_run import equal, tiny_config

from sleep_jax import lifecycle
from sleep_jax.experiment import load_experiment
from sleep_jax.phases.registry import PHASES
from sleep_jax.report.html_report import write_report
from sleep_jax.report.summary import summarise


def tasks_config(fall=10.0):
    """Two tasks of three items each; what falls by more than `fall` is rolled back."""
    config = tiny_config()
    config.dreaming.steps = 0
    config.evaluation.tasks = ("common_knowledge", "instructions")
    config.evaluation.task_items, config.gate.tasks = 3, fall
    return config


@pytest.mark.slow
def test_tasks_of_a_run_resume_with_the_same_bits(tmp_path, monkeypatch):
    experiment = load_experiment(tasks_config())
    whole = lifecycle.run(experiment, str(tmp_path / "whole"), quiet=True)

    def stop(*_):
        raise KeyboardInterrupt

    stopping = PHASES | {"evaluate": dataclasses.replace(PHASES["evaluate"], function=stop)}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lifecycle, "PHASES", stopping)
        lifecycle.run(experiment, str(tmp_path / "parts"), quiet=True)
    parts = lifecycle.run(experiment, str(tmp_path / "parts"), quiet=True)
    assert equal(whole.arrays, parts.arrays)
    assert json.dumps(whole.record["days"]) == json.dumps(parts.record["days"])
    rows = whole.record["days"][0]["tasks"]
    assert [(row["task"], row["metric"]) for row in rows] == [
        ("common_knowledge", "acc"), ("common_knowledge", "acc_norm"),
        ("instructions", "followed"), ("instructions", "checks"),
    ]  # fmt: skip
    assert all(row["items"] == 3 for row in rows)
    falls = {x for x in whole.record["phases"]["consolidate"] if x.startswith("fall_")}
    assert falls == {"fall_common_knowledge", "fall_instructions"}
    page = write_report(tmp_path / "whole", summarise(experiment, whole)).read_text()
    assert "common_knowledge" in page and "followed" in page


def test_unknown_task_of_a_run_is_refused_before_its_model_is_loaded(monkeypatch):
    from sleep_jax.tasks import task_scores

    manager = task_scores._manager
    monkeypatch.setattr(
        task_scores, "_manager", lambda folders, metadata, is_all: manager(folders, metadata, False)
    )
    config = tasks_config()
    config.evaluation.tasks = ("comon_knowledge",)
    with pytest.raises(ValueError, match=r"'comon_knowledge' is unknown; .* common_knowledge"):
        load_experiment(config)
