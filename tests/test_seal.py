"""SEAL's settings from the first phase to the report, on the tiny model."""

import math
import runpy

import jax
import numpy as np
import pytest
from articulate import articulate

from sleep_jax import lifecycle
from sleep_jax.experiment import load_experiment
from sleep_jax.report.html_report import write_report
from sleep_jax.report.summary import summarise


def config():
    """configs/seal.py, but for the model, sizes and step counts, and for what asks more of a model
    than random weights can give: the encoder that judges rollouts, the gate, and replies that are
    right, without which no dream is better than another.
    """
    c = runpy.run_path("configs/seal.py")["get_config"]()
    tiny = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    for section in ("model", "data", "memory", "study", "seeding", "gate", "evaluation"):
        c[section] = tiny[section]
    c.dreaming.scorer = "likelihood"
    c.dreaming.max_new_tokens, c.dreaming.steps = tiny.dreaming.max_new_tokens, tiny.dreaming.steps
    return c


@pytest.mark.slow
def test_seal_preset_learns_the_best_dream_of_each_document(tmp_path, monkeypatch):
    articulate(monkeypatch)
    experiment = load_experiment(config())
    assert experiment.config.dreaming.reward == "top_1"
    assert experiment.config.dreaming.margin == -math.inf
    run = lifecycle.run(experiment, str(tmp_path), quiet=True)
    phases, day = run.record["phases"], run.day(0)
    documents = len(experiment.documents)
    assert phases["write"]["written"] == phases["try"]["tried"] == 5 * documents
    pages = np.array([day["dreams"][kept["dream"]]["document"] for kept in day["kept"]])
    rewards = np.array(day["rewards"])
    # Whether it beats the model that wrote it or not.
    assert [rewards[pages == document].tolist().count(1) for document in range(documents)] == [1, 1]
    assert rewards.sum() == phases["try"]["rewarded"] == phases["learn"]["learnt"] == documents
    assert "skipped" not in phases["learn"] and "rolled_back" not in phases["learn"]
    learnt = jax.tree.map(np.array_equal, run.current.memory, run.before_dreams.memory)
    assert not jax.tree.all(learnt)
    page = write_report(tmp_path, summarise(experiment, run)).read_text()
    assert all(document.title in page for document in experiment.documents)
