"""The rubric judge: its prompts, and grades from yes and no."""

import numpy as np

from sleep_jax.evals.items import Item
from sleep_jax.evals.rubric import Rubric

ITEMS = [Item(0, "Where?", ("Paris", "the capital")), Item(0, "When?", ("1889",))]


def test_rubric_accepts_any_accepted_answer(cfg, variables, tokenizer, monkeypatch):
    judge = Rubric(cfg, variables["params"], tokenizer)
    prompts = []

    def logit_gap(requests):
        prompts.extend(requests)
        return np.array([-1.0, 2.0, 0.0], np.float32)

    monkeypatch.setattr(judge._judge, "logit_gap", logit_gap)
    assert judge(["In the capital", " 1890"], ITEMS).tolist() == [1, 0]
    assert "Gold answer: the capital\nStudent's answer: In the capital" in prompts[1]
    assert "Question: When?" in prompts[2] and len(prompts) == 3


def test_rubric_rejects_blank_replies(cfg, variables, tokenizer):
    judge = Rubric(cfg, variables["params"], tokenizer)
    assert judge(["", "  "], ITEMS).tolist() == [0, 0]
