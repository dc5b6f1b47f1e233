"""Metrics of answers and perplexity, by hand."""

import collections
import math
import re
import string

import numpy as np
import pytest

from sleep_jax.data.answers import squad_words
from sleep_jax.evals.metrics import (
    contains_answer,
    exact_match,
    f1,
    first_grid,
    is_grid_right,
    is_integer_right,
    last_integer,
    perplexity,
    squad_exact_match,
    squad_f1,
)


def test_squad_words_by_hand():
    assert squad_words("  The  U.S. Army's an-them, a\tCat! ") == ["us", "armys", "anthem", "cat"]
    assert squad_words("theatre another") == ["theatre", "another"]  # no article inside a word


@pytest.mark.parametrize(
    "prediction, answer",
    [
        ("The Eiffel Tower.", "eiffel tower"),
        ("«Paris»", "Paris"),
        ("东京。", "东京"),
        ("ПАРИЖ!", "Париж"),
        ("São Paulo", "Sao Paulo"),
        ("seven", "7"),
        ("53m", "53 metres"),
        ("3.10", "3.10"),
        ("+", "+"),
    ],
)
def test_exact_match_and_f1_compare_words_in_any_script(prediction, answer):
    assert exact_match(prediction, answer) == f1(prediction, answer) == 1.0


@pytest.mark.parametrize(
    "prediction, answer",
    [("京都", "东京。"), ("O+", "O-"), ("Vitamin A", "Vitamin B"), ("", ""), ("", "A"), ("-", "+")],
)
def test_exact_match_rejects_other_answers(prediction, answer):
    assert exact_match(prediction, answer) == 0.0


def test_f1_counts_characters_in_scripts_without_spaces():
    assert f1("在东京", "东京。") == pytest.approx(2 * 2 / (3 + 2))
    assert f1("in the old «Eiffel Tower»", ["the Eiffel Tower"]) == pytest.approx(2 / 3)
    assert f1("red red red", ["red blue"]) == pytest.approx(2 / 5)  # repeats count once
    assert f1("London", ["Paris"]) == f1("", "") == f1("the", [""]) == 0.0


def test_squad_exact_match():
    assert squad_exact_match("The Eiffel Tower.", ["eiffel tower", "tower"]) == 1.0
    assert squad_exact_match("Eiffel", ["eiffel tower"]) == 0.0
    assert squad_exact_match("Eiffel", "eiffel") == 1.0


def test_squad_metrics_of_answers_without_words():
    assert squad_exact_match("", "A") == squad_f1("", "A") == 0.0
    assert squad_exact_match("a ", "A") == squad_f1("A", "A") == 1.0
    assert squad_exact_match("The cat", ["A", "cat"]) == 1.0
    assert squad_exact_match("+", "+") == 1.0 and squad_exact_match("-", "+") == 0.0
    assert (
        squad_exact_match("", "")
        == squad_exact_match("", "...")
        == squad_exact_match("the", "")
        == 0.0
    )


def test_squad_f1_by_hand():
    # Prediction: in, old, eiffel, tower; answer: eiffel, tower. 2 shared: 2 * 2 / (4 + 2).
    assert squad_f1("in the old Eiffel Tower", ["the Eiffel Tower"]) == pytest.approx(2 / 3)
    assert squad_f1("Paris", ["London", "Paris, France"]) == pytest.approx(2 / 3)  # the best answer
    assert squad_f1("red red red", ["red blue"]) == pytest.approx(2 / 5)  # repeats count once
    assert squad_f1("London", ["Paris"]) == 0.0
    assert squad_f1("the", ["Paris"]) == 0.0


def test_squad_f1_of_empty_texts_is_0():
    assert squad_f1("", "") == squad_f1("the", [""]) == squad("the", [""])[1] == 0.0


def squad(prediction, answers):
    """(exact match, F1) as the evaluation of SQuAD v1.1 defines them, step by step."""

    def normal(text):
        text = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    def overlap(a, b):
        a, b = normal(a).split(), normal(b).split()
        shared = sum((collections.Counter(a) & collections.Counter(b)).values())
        if not shared:
            return 0.0
        precision, recall = shared / len(a), shared / len(b)
        return 2 * precision * recall / (precision + recall)

    exact = max(normal(prediction) == normal(answer) for answer in answers)
    return float(exact), max(overlap(prediction, answer) for answer in answers)


def test_squad_metrics_match_reference_on_random_texts():
    words = ["the", "a", "An", "U.S.", "tower", "Tower,", "1,250", "(old)", "«", "theatre", "o'er"]
    rng = np.random.default_rng(0)

    def text(least=1):
        return " ".join(rng.choice(words, rng.integers(least, 6)))

    outcomes = set()
    for _ in range(2000):
        prediction, answers = text(0), [text() + " end" for _ in range(rng.integers(1, 4))]
        if rng.random() < 0.3:
            answers[-1] = prediction.upper() + " end!"
            prediction = f"the {prediction} End"
        want = squad(prediction, answers)
        assert squad_exact_match(prediction, answers) == want[0]
        assert squad_f1(prediction, answers) == pytest.approx(want[1])
        outcomes.add(want[0])
    assert outcomes == {0.0, 1.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("first 3, then 12.", 12),
        ("It has seven arches", 7),
        ("1,250 people", 1250),
        ("from 5-3", 3),
        ("it was -5", -5),
        ("x=−12", -12),
        ("4.0", 4),
        ("it is 3.5", None),
        ("A7 and none", None),
        ("", None),
        ("１２ and then ７", 7),
        ("9" * 1000, 10**1000 - 1),
        ("1 or " + "9" * 5000, None),
        ("9" * 5000 + " million", None),
    ],
)
def test_last_integer(text, expected):
    assert last_integer(text) == expected


def test_is_integer_right_by_hand():
    assert is_integer_right("So the answer is 1,250", ["1250", "12"])
    assert not is_integer_right("1250, or 3", ["1250"])
    assert not is_integer_right("no idea", ["1250"])
    with pytest.raises(ValueError, match="no integer in the answer 'Paris'"):
        is_integer_right("1", ["1", "Paris"])


@pytest.mark.parametrize(
    "text",
    [
        "1 2\n3 4",
        "12\n34",
        "[[1, 2], [3, 4]]",
        "[[1 2]\n [3 4]]",
        "Here:\n\n1 2\n3 4\n\n5 6",
        "1 2\n3 4\nfor 3",
    ],
)
def test_first_grid_formats(text):
    assert first_grid(text) == ((1, 2), (3, 4))


def test_is_grid_right_compares_every_cell():
    assert first_grid("1 2\n3") is None and first_grid("none") is None
    assert is_grid_right("1 0\n0 1", "10\n01")
    assert not is_grid_right("1 0\n0 1", "1 0\n0 0")
    assert not is_grid_right("1 0 0 1", "1 0\n0 1")
    assert not is_grid_right("none", "1")
    with pytest.raises(ValueError, match="no grid"):
        is_grid_right("1", "a house")


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
        ("Es ist «Paris».", ["Paris"], True),
        ("¿París?", ["Paris"], True),
        ("Par\u200bis\u200b", ["Paris"], True),
        ("The kiln reaches 1260°C.", ["1260 °C"], True),
        ("The kiln reaches 1260 °C.", ["1260 degrees"], True),
        ("It is 53m tall.", ["53 metres"], True),
        ("a well‐known fact", ["well-known"], True),  # U+2010
        ("答案是东京。", ["东京"], True),
        ("答案是大阪。", ["东京"], False),
        ("答えは東京です。", ["東京"], True),
        ("クリスマスです。", ["リス"], False),  # katakana in a row are a word
        ("คำตอบคือกรุงเทพ", ["กรุงเทพ"], True),
        ("Башня высотой 53 м.", ["53 м"], True),
        ("Er wohnt in der Goethestrasse.", ["Goethestraße"], True),
        ("It costs €5.", ["$5"], False),
        ("It is 5.", ["5 %"], False),
        ("Group O-", ["O+"], False),
        ("The answer is A.", ["A"], True),
        ("A cat", ["A"], False),
        ("It came with Release 3.10.", ["3.10"], True),
        ("It came with Release 3.1.", ["3.10"], False),
        ("It is 3.1 m.", ["3.10 m"], True),
        ("+", ["+"], True),
        ("", ["Paris"], False),
        ("", [""], False),
        ("the a an", ["the"], False),  # nothing is left to look for
    ],
)
def test_contains_answer(prediction, answers, expected):
    assert contains_answer(prediction, answers) is expected


@pytest.mark.parametrize("metric", [exact_match, f1, squad_exact_match, squad_f1, contains_answer])
def test_metrics_without_answers_raise(metric):
    with pytest.raises(ValueError, match="answers is empty"):
        metric("Paris", [])


def test_perplexity():
    assert perplexity(4 * math.log(50.0), 4) == pytest.approx(50.0)
    assert perplexity(0.0, 3) == 1.0
    assert perplexity(1e6, 1) == math.inf
    assert math.isnan(perplexity(math.nan, 1))
    with pytest.raises(ValueError, match="tokens=0"):
        perplexity(1.0, 0)
