"""A judge is a score and a threshold; trivial pairs need no score."""

import numpy as np
import pytest

from sleep_jax.rewards.agreement import agreement
from sleep_jax.rewards.judge import ScoreJudge, is_exact, rule_judge


def test_score_judge_threshold_is_inclusive_and_skips_trivial_pairs():
    scored = []

    def score(candidates, references):
        scored.extend(zip(candidates, references))
        return np.array([0.4, 0.5, -np.inf, np.nan])

    judge = ScoreJudge(score, 0.5)
    candidates = ["same", " ", "x", "a", "b ", "c", "d"]
    references = ["same ", "", "", "1", "2", "3", "4"]
    got = judge(candidates, references)
    np.testing.assert_array_equal(got, [1, 1, 0, 0, 1, 0, 0])
    assert got.dtype == np.float32
    assert scored == [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]


def test_score_judge_with_no_pairs_and_with_unequal_counts():
    def never(*_):
        raise AssertionError("nothing to score")

    assert ScoreJudge(never, 0.0)([], []).shape == (0,)
    assert ScoreJudge(never, 0.0)(["a"], ["a"]) == 1
    with pytest.raises(ValueError, match="1 candidates, 2 references"):
        ScoreJudge(never, 0.0)(["a"], ["a", "b"])


def test_rule_judge():
    candidates = ["The bridge has 7 arches.", "in Oslen", "The Seven"]
    references = ["There are seven arches in the bridge.", "in Marwick", "7."]
    np.testing.assert_array_equal(rule_judge(agreement)(candidates, references), [1, 0, 1])
    np.testing.assert_array_equal(rule_judge(is_exact)(candidates, references), [0, 0, 1])


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [
        ("The red lamp.", "a Red Lamp", True),
        ("1,250 steps", "1250 steps", True),
        ("Seven", "7", True),
        ("3.5", "35", False),
        ("-5", "5", False),
        ("red lamp", "lamp red", False),
        ("the", "a", False),  # no word is left to be equal
    ],
)
def test_is_exact_ignores_case_articles_and_spelling_of_numbers(candidate, reference, expected):
    assert is_exact(candidate, reference) == is_exact(reference, candidate) == expected
