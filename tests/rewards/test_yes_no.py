"""The model as a judge: both orders, its cache, and logits of the base."""

import jax
import numpy as np
import pytest

from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.rewards import yes_no
from sleep_jax.rewards.judge import ScoreJudge
from sleep_jax.rewards.yes_no import YesNoScore

PAIRS = [("a red lamp", "the lamp is red"), ("a goat", "a boat"), ("x", "a much longer text")]


@pytest.fixture(scope="module")
def model(cfg, variables, tokenizer):
    """The tiny decoder with memory in its second layer alone, so in two stacks."""
    cfg = cfg.replace(memory=MemoryConfig((LevelConfig(slots=2, rank=4),), layers="last_quarter"))
    params = dict(variables["params"])
    layers = params.pop("layers")
    params["trunk"] = jax.tree.map(lambda x: x[:1], layers)
    params["layers"] = jax.tree.map(lambda x: x[1:], layers)
    return cfg, params, tokenizer


def test_yes_no_score_is_the_minimum_of_both_orders(model, monkeypatch):
    judge = YesNoScore(*model)
    gaps = {"ab": 2.0, "ba": 0.5, "cd": 3.0, "dc": -1.0, "ef": -2.0, "fe": -3.0}
    scored = []

    def logit_gap(pairs):
        scored.extend(a + b for a, b in pairs)
        return np.array([gaps[a + b] for a, b in pairs])

    monkeypatch.setattr(judge, "logit_gap", logit_gap)
    np.testing.assert_array_equal(judge("ace", "bdf"), [0.5, -1, -3])
    assert sorted(scored) == sorted(gaps)
    np.testing.assert_array_equal(judge("bdf", "ace"), [0.5, -1, -3])
    np.testing.assert_array_equal(ScoreJudge(judge, 0.0)("ace", "bdf"), [1, 0, 0])
    np.testing.assert_array_equal(ScoreJudge(judge, 0.6)("ace", "bdf"), [0, 0, 0])
    assert len(scored) == len(gaps)  # no pair was scored twice


def test_yes_no_score_caches_pairs(model, monkeypatch):
    calls = []
    program = yes_no.logit_gaps
    monkeypatch.setattr(yes_no, "logit_gaps", lambda *a: calls.append(1) or program(*a))
    judge = YesNoScore(*model)
    a, b = zip(*PAIRS)
    first = judge([*a, a[0]], [*b, b[0]])
    assert len(calls) == 1 and first[0] == first[-1]
    np.testing.assert_array_equal(judge(b, a), first[:3])
    assert len(calls) == 1
    assert judge([], []).shape == (0,)


def test_logit_gap_is_the_difference_of_two_logits_of_the_base(model, cfg, variables, logits):
    judge, tokenizer = YesNoScore(*model), model[2]
    yes, no = (tokenizer.encode(word)[0] for word in ("Yes", "No"))
    bare = cfg.replace(memory=MemoryConfig())
    for got, (a, b) in zip(judge.logit_gap(PAIRS), PAIRS):
        request = yes_no.REQUEST.format(a=a, b=b)
        prompt = tokenizer.chat([{"role": "user", "content": request}])
        tokens = np.zeros((1, 256), np.int32)  # one shape, so one program
        tokens[0, : len(prompt)] = prompt
        last = logits(bare, {"params": variables["params"]}, tokens)[0, len(prompt) - 1]
        np.testing.assert_allclose(got, last[yes] - last[no], rtol=1e-4, atol=1e-4)


def test_logit_gap_compiles_once_for_any_number_of_pairs(model, compilations):
    judge = YesNoScore(*model)
    judge.logit_gap(PAIRS)
    count = len(compilations)
    judge.logit_gap([(f"text {i}", "another") for i in range(2 * yes_no.ROWS + 1)])
    assert len(compilations) == count


def test_equal_tokens_for_yes_and_no_are_rejected(model):
    cfg, params, _ = model

    class Mute:
        encode = staticmethod(lambda text: [0])

    with pytest.raises(ValueError, match="'Yes' and 'No' with the same token"):
        YesNoScore(cfg, params, Mute())
