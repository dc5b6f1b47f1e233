"""SEAL's settings from the first phase to the report, on the tiny model."""

import math
import runpy

import jax
import numpy as np
import pytest
from articulate import articulate

from sleep_jax import lifecycle, morning
from sleep_jax.runtime.report import write_report
from sleep_jax.sleeper import wake_up


def config():
    """configs/seal.py, but for the model, sizes and step counts, and for what asks more of a model
    than random weights can give: the encoder that judges rollouts, the gate, and replies that are
    right, without which no dream is better than another."""
    c = runpy.run_path("configs/seal.py")["get_config"]()
    tiny = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    for section in ("model", "data", "memory", "study", "seeding", "gate", "evaluation"):
        c[section] = tiny[section]
    c.dreaming.scorer = "likelihood"
    c.dreaming.max_new_tokens, c.dreaming.steps = tiny.dreaming.max_new_tokens, tiny.dreaming.steps
    return c


@pytest.mark.slow
def test_the_best_dream_of_each_document_is_learnt(tmp_path, monkeypatch):
    articulate(monkeypatch)
    sleeper = wake_up(config())
    assert sleeper.config.dreaming.reward == "top_1"
    assert sleeper.config.dreaming.margin == -math.inf
    night = lifecycle.live(sleeper, str(tmp_path), quiet=True)
    phases, day = night.record["phases"], night.day(0)
    documents = len(sleeper.documents)
    assert phases["write"]["written"] == phases["try"]["tried"] == 5 * documents
    of = np.array([day["dreams"][kept["dream"]]["document"] for kept in day["kept"]])
    rewards = np.array(day["rewards"])
    # Whether it beats the model that wrote it or not.
    assert [rewards[of == document].tolist().count(1) for document in range(documents)] == [1, 1]
    assert rewards.sum() == phases["try"]["rewarded"] == phases["learn"]["learnt"] == documents
    assert "skipped" not in phases["learn"] and "rolled_back" not in phases["learn"]
    learnt = jax.tree.map(np.array_equal, night.now.memory, night.consolidated.memory)
    assert not jax.tree.all(learnt)
    page = write_report(tmp_path, morning.summarise(sleeper, night)).read_text()
    assert all(document.title in page for document in sleeper.documents)
