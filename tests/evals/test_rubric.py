"""The rubric judge: what it asks, and how yes and no become marks."""

import numpy as np

from sleep_jax.evals.items import Item
from sleep_jax.evals.rubric import Rubric

ITEMS = [Item(0, "Where?", ("Paris", "the capital")), Item(0, "When?", ("1889",))]


def test_an_answer_that_conveys_one_of_the_accepted_is_right(
    cfg, variables, tokenizer, monkeypatch
):
    judge = Rubric(cfg, variables["params"], tokenizer)
    asked = []

    def logit_gap(requests):
        asked.extend(requests)
        return np.array([-1.0, 2.0, 0.0], np.float32)

    monkeypatch.setattr(judge._model, "logit_gap", logit_gap)
    assert judge(["In the capital", " 1890"], ITEMS).tolist() == [1, 0]
    assert "Gold answer: the capital\nStudent's answer: In the capital" in asked[1]
    assert "Question: When?" in asked[2] and len(asked) == 3


def test_a_blank_reply_is_wrong_whatever_the_model_would_say(cfg, variables, tokenizer):
    judge = Rubric(cfg, variables["params"], tokenizer)
    assert judge(["", "  "], ITEMS).tolist() == [0, 0]
