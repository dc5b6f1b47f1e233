"""A judge is a score and a threshold; what needs no score it decides by itself."""

import numpy as np
import pytest

from sleep_jax.rewards.agreement import agreement
from sleep_jax.rewards.judge import ScoreJudge, is_exact, rule_judge


def test_thresholds_are_inclusive_and_plain_cases_are_not_scored():
    asked = []

    def score(candidates, references):
        asked.extend(zip(candidates, references))
        return np.array([0.4, 0.5, -np.inf, np.nan])

    judge = ScoreJudge(score, 0.5)
    candidates = ["same", " ", "x", "a", "b ", "c", "d"]
    references = ["same ", "", "", "1", "2", "3", "4"]
    got = judge(candidates, references)
    np.testing.assert_array_equal(got, [1, 1, 0, 0, 1, 0, 0])
    assert got.dtype == np.float32
    assert asked == [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]


def test_no_pairs_and_pairs_that_do_not_match_up():
    def never(*_):
        raise AssertionError("nothing to score")

    assert ScoreJudge(never, 0.0)([], []).shape == (0,)
    assert ScoreJudge(never, 0.0)(["a"], ["a"]) == 1
    with pytest.raises(ValueError, match="1 candidates, 2 references"):
        ScoreJudge(never, 0.0)(["a"], ["a", "b"])


def test_rules_as_judges():
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
def test_exact(candidate, reference, expected):
    assert is_exact(candidate, reference) == is_exact(reference, candidate) == expected
