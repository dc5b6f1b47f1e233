"""Answer scores and perplexity by hand."""

import math

import pytest

from sleep_jax.evals.metrics import (
    contains_answer,
    exact_match,
    f1,
    normalize_answer,
    perplexity,
)


def test_squad_normalisation():
    assert normalize_answer("  The  U.S. Army's an-them, a\tCat! ") == "us armys anthem cat"
    assert normalize_answer("theatre another") == "theatre another"  # no article inside a word


def test_exact_match():
    assert exact_match("The Eiffel Tower.", ["eiffel tower", "tower"]) == 1.0
    assert exact_match("Eiffel", ["eiffel tower"]) == 0.0
    assert exact_match("Eiffel", "eiffel") == 1.0


def test_f1_by_hand():
    # Prediction: in, old, eiffel, tower; answer: eiffel, tower. 2 shared: 2 * 2 / (4 + 2).
    assert f1("in the old Eiffel Tower", ["the Eiffel Tower"]) == pytest.approx(2 / 3)
    assert f1("Paris", ["London", "Paris, France"]) == pytest.approx(2 / 3)  # the best answer
    assert f1("red red red", ["red blue"]) == pytest.approx(2 / 5)  # repeats count once
    assert f1("London", ["Paris"]) == 0.0
    assert f1("the", [""]) == 1.0 and f1("the", ["Paris"]) == 0.0


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("It was built in Paris, I think.", ["paris"], True),
        ("The bridge has seven arches.", ["7"], True),
        ("The bridge has 7 arches.", ["Seven arches"], True),
        ("About 1,250 people came.", ["1250 people"], True),
        ("About 1250 people came.", ["1,250"], True),
        ("Twenty of them", ["20"], True),
        ("There are 17 arches.", ["7"], False),  # whole words only
        ("A parisian café", ["Paris"], False),
        ("Eiffel's old tower", ["Eiffel tower"], False),  # a run, not a set
        ("a Paris-based firm", ["Paris"], True),
        ("It is 3.5 m wide.", ["35"], False),
        ("It is 3.50 m wide.", ["3.5"], True),
        ("It was -5 degrees.", ["5"], False),
        ("in London", ["Paris", "London"], True),
        ("“Paris”…", ["Paris"], True),
        ("", ["Paris"], False),
        ("the a an", ["the"], False),  # nothing is left to look for
    ],
)
def test_contains_answer(prediction, answers, expected):
    assert contains_answer(prediction, answers) is expected


@pytest.mark.parametrize("metric", [exact_match, f1, contains_answer])
def test_no_answers_is_an_error(metric):
    with pytest.raises(ValueError, match="answers is empty"):
        metric("Paris", [])


def test_perplexity():
    assert perplexity(4 * math.log(50.0), 4) == pytest.approx(50.0)
    assert perplexity(0.0, 3) == 1.0
    assert perplexity(1e6, 1) == math.inf
    assert math.isnan(perplexity(math.nan, 1))
    with pytest.raises(ValueError, match="tokens=0"):
        perplexity(1.0, 0)
