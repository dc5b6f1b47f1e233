"""Judges by embeddings: the cosine with agreement, and by itself."""

import numpy as np
import pytest

from sleep_jax.rewards.calibration import choose_threshold, read_probe, score_pairs
from sleep_jax.rewards.semantic import (
    COSINE_THRESHOLD,
    GATED_THRESHOLD,
    CosineScore,
    GatedScore,
    cosine_judge,
    embedding_judge,
)


class LetterEncoder:
    """Letter counts as embeddings of norms other than 1; records its calls."""

    def __init__(self):
        self.calls = []

    def encode(self, texts):
        self.calls.append(list(texts))
        return np.array([[t.count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for t in texts])


CANDIDATES = ["the arch is old", "zzz zzz", "7 arches are here", "not here", "same", " ", "x"]
REFERENCES = ["old is the arch", "aaa aaa", "8 arches are here", "here", "same ", "", ""]


def test_embedding_judge_requires_cosine_and_agreement():
    encoder = LetterEncoder()
    got = embedding_judge(encoder, 0.9)(CANDIDATES, REFERENCES)
    np.testing.assert_array_equal(got, [1, 0, 0, 0, 1, 1, 0])
    # Pairs that the rules reject are not embedded.
    assert encoder.calls == [["the arch is old", "zzz zzz", "old is the arch", "aaa aaa"]]


def test_cosine_judge_accepts_a_changed_number():
    got = cosine_judge(LetterEncoder(), 0.9)(CANDIDATES, REFERENCES)
    np.testing.assert_array_equal(got, [1, 0, 1, 0, 1, 1, 0])


def test_cosine_score_ignores_norms_and_embeds_each_text_once():
    class Fixed(LetterEncoder):
        def encode(self, texts):
            super().encode(texts)
            return np.array([[3.0, 4.0] if "first" in t else [10.0, 0.0] for t in texts])

    encoder = Fixed()
    got = CosineScore(encoder)(["first", "first", "other"], ["other", "first", "other"])
    np.testing.assert_allclose(got, [0.6, 1, 1], rtol=1e-6)
    assert encoder.calls == [["first", "other"]]
    assert CosineScore(encoder)([], []).shape == (0,)


@pytest.mark.parametrize("build", [embedding_judge, cosine_judge])
def test_threshold_outside_minus_1_to_1_is_rejected(build):
    with pytest.raises(ValueError, match=r"threshold=1\.5 is not a cosine"):
        build(LetterEncoder(), 1.5)


@pytest.mark.slow
def test_default_thresholds_are_calibrated_on_the_probe():
    from sleep_jax.interop.resolve import resolve
    from sleep_jax.models.encoder import load_encoder

    cosine = CosineScore(load_encoder(resolve("all-MiniLM-L6-v2")))
    calibration, test = read_probe()
    for score, threshold in ((GatedScore(cosine), GATED_THRESHOLD), (cosine, COSINE_THRESHOLD)):
        assert round(choose_threshold(*score_pairs(score, calibration)), 3) == threshold

    changed = ("number", "name", "negated", "unit", "roles", "opposite", "word", "unrelated")
    scores, same = score_pairs(GatedScore(cosine), test)
    is_changed = np.array([pair.kind in changed for pair in test])
    assert not np.any(scores[is_changed] >= GATED_THRESHOLD)
    assert np.mean(scores[same] >= GATED_THRESHOLD) > 0.7
    assert score_pairs(cosine, test)[0][is_changed].mean() > 0.7  # not enough alone
