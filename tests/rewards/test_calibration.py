"""The probe, and the threshold that it gives: by hand."""

import collections
import math
import warnings

import numpy as np
import pytest

from sleep_jax.rewards import calibration
from sleep_jax.rewards.calibration import calibrated_judge, choose_threshold, read_probe

SCORES = np.array([0.9, 0.8, 0.6, 0.3, 0.7, 0.5, 0.2, 0.1])
SAME = np.array([True] * 4 + [False] * 4)


def test_probe_halves_have_the_same_counts_and_no_common_text():
    halves = read_probe()
    texts = [{text for pair in half for text in (pair.a, pair.b)} for half in halves]
    assert texts[0].isdisjoint(texts[1])
    counts = [collections.Counter((p.kind, p.same) for p in half) for half in halves]
    assert counts[0] == counts[1]
    assert counts[0].total() >= 60 and len(counts[0]) == len({kind for kind, _ in counts[0]})
    assert all(pair.a.strip() != pair.b.strip() for half in halves for pair in half)


@pytest.mark.parametrize(
    ("max_false_positives", "expected"),
    [
        (0.0, 0.75),  # 0.9 and 0.8 pass: between 0.8 and 0.7
        (0.25, 0.55),  # and 0.6, at the cost of 0.7
        (0.5, 0.25),  # and 0.3, at the cost of 0.5
        (1.0, 0.25),  # no more true positives, so no more false ones
    ],
)
def test_choose_threshold_by_hand(max_false_positives, expected):
    np.testing.assert_allclose(choose_threshold(SCORES, SAME, max_false_positives), expected)


def test_choose_threshold_ignores_infinite_scores():
    scores = np.array([0.5, -np.inf, -np.inf, 0.2])
    same = np.array([True, True, False, False])
    np.testing.assert_allclose(choose_threshold(scores, same, 0.0), 0.35)
    np.testing.assert_allclose(choose_threshold(scores, same, 1.0), 0.35)
    assert choose_threshold(np.full(4, -np.inf), same) == math.inf


def test_choose_threshold_is_inf_if_none_qualifies():
    assert choose_threshold(np.array([0.1, 0.9]), np.array([True, False])) == math.inf


def test_choose_threshold_needs_both_labels():
    with pytest.raises(ValueError, match="all labels are equal; give pairs"):
        choose_threshold(SCORES, np.ones(8, bool))


def test_calibrated_judge_threshold_and_warning(monkeypatch):
    labels = {(p.a, p.b): p.same for half in read_probe() for p in half}

    def labels_as_scores(candidates, references):
        return np.array([7.0 + labels[pair] for pair in zip(candidates, references)])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judge = calibrated_judge(labels_as_scores)
    assert judge.threshold == 7.5
    pair = read_probe()[1][0]
    assert judge([pair.a], [pair.b]) == 1

    with pytest.warns(UserWarning, match="accepts 0% of the probe's texts that say the same"):
        judge = calibrated_judge(lambda a, b: np.zeros(len(a)))  # says yes to everything
    assert judge.threshold == math.inf
    assert calibration.MAX_FALSE_POSITIVES < calibration.MIN_TRUE_POSITIVES
