"""Judges by sentence embeddings.

The cosine tells whether two texts are about the same thing, but hardly changes with a single fact
or a negation. So it only gates: texts above its threshold must agree in their facts as well.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from sleep_jax.rewards.agreement import agreement
from sleep_jax.rewards.judge import ScoreJudge

# Of all-MiniLM-L6-v2, calibrated at 5 % false positives (experiments/judges).
GATED_THRESHOLD = 0.775
COSINE_THRESHOLD = 0.993


class Encoder(Protocol):
    """A text encoder, such as `models.encoder.SentenceEncoder`."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of any norm, float [n, width], of n texts."""


class CosineScore:
    """Cosine of the embeddings of pairs of texts."""

    def __init__(self, encoder: Encoder):
        self.encoder = encoder

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """Cosines, float32 [n]; each distinct text is embedded once."""
        texts = list(dict.fromkeys([*candidates, *references]))
        if not texts:
            return np.zeros(0, np.float32)
        vectors = np.asarray(self.encoder.encode(texts), np.float32)
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        row = {text: i for i, text in enumerate(texts)}
        a = vectors[[row[text] for text in candidates]]
        b = vectors[[row[text] for text in references]]
        return np.sum(a * b, axis=1)


class GatedScore:
    """A score of the pairs for which a rule is true; that of the others is -inf."""

    def __init__(self, score, rule: Callable[[str, str], bool] = agreement):
        self.score, self.rule = score, rule

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """Scores, float32 [n]."""
        out = np.full(len(candidates), -np.inf, np.float32)
        kept = [i for i, pair in enumerate(zip(candidates, references)) if self.rule(*pair)]
        out[kept] = self.score([candidates[i] for i in kept], [references[i] for i in kept])
        return out


def embedding_judge(encoder: Encoder, threshold: float = GATED_THRESHOLD) -> ScoreJudge:
    """Accepts pairs that agree in their facts and whose cosine reaches a threshold.

    The default threshold is calibrated for all-MiniLM-L6-v2.

    Raises:
      ValueError: the threshold is outside [-1, 1].
    """
    _check_cosine(threshold)
    return ScoreJudge(GatedScore(CosineScore(encoder)), threshold)


def cosine_judge(encoder: Encoder, threshold: float = COSINE_THRESHOLD) -> ScoreJudge:
    """Accepts pairs whose cosine reaches a threshold.

    The default threshold is calibrated for all-MiniLM-L6-v2.

    Raises:
      ValueError: the threshold is outside [-1, 1].
    """
    _check_cosine(threshold)
    return ScoreJudge(CosineScore(encoder), threshold)


def _check_cosine(threshold: float) -> None:
    if not -1.0 <= threshold <= 1.0:
        raise ValueError(f"threshold={threshold} is not a cosine; choose it within [-1, 1]")
