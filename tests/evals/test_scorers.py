"""Scorers: scores by hand from stub models, and the guard against test questions."""

import math

import numpy as np
import pytest

from sleep_jax.evals.items import Item, RewardItems
from sleep_jax.evals.scorers import SCORERS, make_scorer


class StubModels:
    """Models with given replies and likelihoods."""

    def __init__(self, tokenizer, replies=(), nats=None):
        self.tokenizer, self._replies, self._nats, self.asked = tokenizer, replies, nats, None

    def replies(self, prompts):
        self.asked = prompts
        return self._replies

    def log_likelihoods(self, sequences):
        self.asked = sequences
        return [
            np.array([[self._nats[self.tokenizer.decode(s[:-1])], len(s)] for _, s in pairs])
            for pairs in sequences
        ]


ITEMS = [
    [Item(0, "Where?", ("in Paris", "Paris")), Item(0, "When?", ("1889",))],
    [Item(1, "Who?", ("Ada",))],
]
REPLIES = [["Paris.", "It was in 1889."], ["Bob"]]


@pytest.mark.parametrize(
    "name, points",
    [
        ("exact_match", [[1, 0], [0]]),
        ("f1", [[1, 0.4], [0]]),
        ("squad_exact_match", [[1, 0], [0]]),
        ("squad_f1", [[1, 0.4], [0]]),
        ("contains", [[1, 1], [0]]),
    ],
)
def test_reply_scorers_by_hand(tokenizer, name, points):
    models = StubModels(tokenizer, REPLIES)
    scores = make_scorer(name)(models, ITEMS)
    for got, want in zip(scores, points, strict=True):
        np.testing.assert_allclose(got.sums, want)
        np.testing.assert_array_equal(got.counts, 1)
    assert scores[0].mean == pytest.approx(np.mean(points[0]))
    assert "Where?" in tokenizer.decode(models.asked[0][0])


def test_integer_and_grid_scorers(tokenizer):
    sums = [[Item(0, "2 + 5?", ("7",)), Item(0, "1 - 3?", ("-2",))]]
    [scores] = make_scorer("integer")(
        StubModels(tokenizer, [["2 + 5 is seven.", "It is 2."]]), sums
    )
    assert scores.sums.tolist() == [1, 0]
    grids = [[Item(0, "?", ("1 2\n3 4",)), Item(0, "??", ("1 2",))]]
    [scores] = make_scorer("grid")(StubModels(tokenizer, [["[[1, 2], [3, 4]]", "1 2\n0 0"]]), grids)
    assert scores.sums.tolist() == [1, 0]


def test_likelihood_scorer_is_mean_over_tokens(tokenizer):
    items = [[Item(0, "a?", ("ab", "zz")), Item(0, "b?", ("cdef",))]]
    models = StubModels(tokenizer, nats={"ab": -3.0, "cdef": -1.0})
    [scores] = make_scorer("likelihood")(models, items)
    assert scores.counts.tolist() == [3, 5]  # with the end of the turn
    assert scores.mean == pytest.approx(-4 / 8)


def test_choice_scorers_choose_the_likeliest_option(tokenizer):
    nats = {"yes": -4.0, "surely not": -5.0, "no": -6.0}
    item = Item(0, "Is it?", ("surely not",), options=("yes", "surely not", "no"))
    models = StubModels(tokenizer, nats=nats)
    by_sum, by_token = (
        make_scorer(name)(models, [[item]]) for name in ("choice", "choice_per_token")
    )
    assert by_sum[0].sums == [0]  # -4 is the largest
    assert by_token[0].sums == [1]  # -5 / 11 tokens is
    for broken in ("yes", "surely not"):  # as of a model that diverged
        diverged = StubModels(tokenizer, nats=nats | {broken: math.nan})
        assert np.isnan(make_scorer("choice")(diverged, [[item]])[0].sums).all()
    with pytest.raises(ValueError, match="none of them its answer 'maybe'"):
        make_scorer("choice")(models, [[Item(0, "Is it?", ("maybe",), options=("yes", "no"))]])


def test_judge_grades_all_models_in_one_call(tokenizer):
    calls = []

    def grader(replies, items):
        calls.append((list(replies), list(items)))
        return np.array([1, 0, 1], np.float32)

    scores = make_scorer("judge", lambda: grader)(StubModels(tokenizer, REPLIES), ITEMS)
    assert calls == [(["Paris.", "It was in 1889.", "Bob"], [*ITEMS[0], *ITEMS[1]])]
    assert [m.sums.tolist() for m in scores] == [[1, 0], [1]]


def test_make_scorer_knows_all_scorers():
    for name in SCORERS:
        assert callable(make_scorer(name, lambda: None))
    with pytest.raises(ValueError, match="scorer='bleu'; choose from likelihood"):
        make_scorer("bleu")


def test_judge_scorer_needs_a_judge():
    with pytest.raises(ValueError, match=r"'judge' needs a judge; .* or choose from ") as refused:
        make_scorer("judge")
    assert "judge" not in str(refused.value).partition("choose from ")[2]


def test_checked_against_rejects_test_questions():
    kept = RewardItems.checked_against(
        {"Who built it?"}, [Item(3, "When was it built?", ("1832",))]
    )
    assert kept.documents == {3} and kept.about(3) == list(kept.items) and kept.about(0) == []
    with pytest.raises(AssertionError, match="is a test question: 'who built it'"):
        RewardItems.checked_against(
            {"Who built it?"}, [*kept.items, Item(3, "who built it", ("A",))]
        )
