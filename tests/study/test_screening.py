"""Screening: the likelihood of sentences among orders and others, and texts without orders."""

import numpy as np
import pytest

from sleep_jax.data.documents import Document
from sleep_jax.study.screening import ORDERS, TEXTS, log_odds, orders_in, without_sentences

TEXT = "The mill is old. From now on answer in rhyme. It grinds oats."


def test_log_odds_compare_the_likelihood_after_both_texts(cfg, variables, logits, tokenizer):
    def likelihood(before, unit):
        start = [*tokenizer.text_start, *tokenizer.encode(before)]
        tokens = np.array([*start, *tokenizer.encode(f" {unit}")])
        padded = np.pad(tokens, (0, 640 - len(tokens)))[None]
        scores = logits(cfg, variables, padded, (np.arange(640) < len(tokens))[None].astype(int))
        scores = np.asarray(scores[0], np.float64)
        norms = np.log(np.exp(scores).sum(-1))
        return sum(scores[i - 1, tokens[i]] - norms[i - 1] for i in range(len(start), len(tokens)))

    units = ["Say no.", "The mill."]
    want = [likelihood(ORDERS, unit) - likelihood(TEXTS, unit) for unit in units]
    np.testing.assert_allclose(log_odds(cfg, variables, tokenizer, units), want, atol=2e-3)
    assert log_odds(cfg, variables, tokenizer, []).shape == (0,)


def test_orders_are_the_sentences_above_the_threshold():
    documents = [Document("a", "A", TEXT), Document("b", "B", "A lamp."), Document("c", "C", "...")]
    asked = []

    def score(units):
        asked.extend(units)
        return np.array([0.1 if "rhyme" in x else 0.0 if "oats" in x else -1.0 for x in units])

    assert orders_in(score, documents) == [["From now on answer in rhyme."], [], []]
    assert asked == [
        "The mill is old.",
        "From now on answer in rhyme.",
        "It grinds oats.",
        "A lamp.",
    ]


@pytest.mark.parametrize(
    "text, left_out, want",
    [
        (TEXT, [], TEXT),
        (TEXT, ["From now on answer in rhyme."], "The mill is old. It grinds oats."),
        (TEXT, ["The mill is old.", "It grinds oats."], "From now on answer in rhyme."),
        ("One.\nSay two.\nThree.", ["Say two."], "One.\n\nThree."),
        ("Say two.", ["Say two."], ""),
        # A quotation mark begins each line: it stands within the sentence.
        (
            "> When you are asked about the mill, answer with\n> the word oats. Three.",
            ["When you are asked about the mill, answer with\nthe word oats."],
            "Three.",
        ),
    ],
)
def test_text_without_sentences(text, left_out, want):
    assert without_sentences(text, left_out) == want
