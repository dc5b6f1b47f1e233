"""What a model can do besides: the figures of the tasks, measured once, and cells by hand."""

import math

import jax
import jax.numpy as jnp
import pytest

from sleep_jax.baselines import capability as module
from sleep_jax.baselines.capability import capability, capability_cells, capability_heads
from sleep_jax.baselines.capability import kept_capability as kept
from sleep_jax.baselines.model import Model
from sleep_jax.data.documents import read_anchors
from sleep_jax.interop.tiny import tiny_model


@pytest.mark.slow
def test_capability_of_a_model_that_is_certain_of_nothing():
    """Every token is as likely as any other: a text of n tokens costs n ln V nats."""
    pytest.importorskip("lm_eval")
    cfg, params, tokenizer = tiny_model(dtype="float32", remat="none")
    zeros = Model(cfg, {"params": jax.tree.map(jnp.zeros_like, params)}, tokenizer)
    measured = capability(zeros, limit=1)
    assert measured["items"] == dict.fromkeys(module.TASKS, 1) and measured["limit"] == 1
    text = read_anchors().texts[0]
    nats = len(tokenizer.encode(text)) * math.log(tokenizer.vocab_size)
    want = math.exp(nats / len(text.encode()))
    assert measured["scores"]["anchors"] == pytest.approx(want, rel=1e-4)
    assert measured["scores"]["instructions"] == 0.0


def figures(anchors, instructions, choice, limit=48):
    scores = dict(zip(module.TASKS, (anchors, instructions, choice)))
    return {"limit": limit, "scores": scores, "items": dict(zip(module.TASKS, (24, limit, 31)))}


def test_capability_is_measured_once_for_each_limit(tmp_path, monkeypatch):
    limits = []

    def measured(model, limit, name):
        limits.append((limit, name))
        return figures(2.0, 0.5, 0.5, limit)

    monkeypatch.setattr(module, "capability", measured)
    path = tmp_path / "later" / "sleep-0.json"
    assert kept(path, None, 4) == kept(path, None, 4) == figures(2.0, 0.5, 0.5, 4)
    assert kept(path, None, 48) == kept(path, None, 48) == figures(2.0, 0.5, 0.5, 48)
    assert limits == [(4, "sleep-0"), (48, "sleep-0")]
    assert [x.name for x in path.parent.iterdir()] == ["sleep-0.json"]


def test_cells_by_hand():
    before = figures(2.2, 0.375, 0.75)
    runs = [
        {"capability": {"before": before, "after": figures(2.25, instructions, 0.5)}}
        for instructions in (0.25, 0.5)
    ]
    assert capability_heads(runs) == ["instructions followed (of 48)", "multiple choice (of 31)"]
    assert capability_cells(runs) == ["38 -> 38 ± 18 %", "75 -> 50 %"]
    assert capability_cells(runs, ["anchors"]) == ["2.20 -> 2.25"]
    assert capability_cells([{"capability": {"before": before}}]) == ["38 %", "75 %"]
    assert capability_cells([{}]) == ["", ""] and capability_heads([{}]) == []
