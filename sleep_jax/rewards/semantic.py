"""Judges by sentence embeddings.

Cosine says whether two texts are about the same thing, but hardly moves when one fact is changed or
negated. So it is a gate: what lies over its threshold must agree in its facts as well.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from sleep_jax.rewards.agreement import agreement
from sleep_jax.rewards.judge import ScoreJudge

# With all-MiniLM-L6-v2, from the calibration half of the probe (experiments/judges): the most
# paraphrases that pass while at most 5 % of the pairs that differ do.
GATED_THRESHOLD = 0.775
COSINE_THRESHOLD = 0.993


class Encoder(Protocol):
    """Anything that turns n texts into n vectors, such as `models.encoder.SentenceEncoder`."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """[n] texts to [n, width] vectors of any norm."""


class Cosine:
    """Cosine of the embeddings of pairs of texts."""

    def __init__(self, encoder: Encoder):
        self.encoder = encoder

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """[n] float32. Each different text is embedded once."""
        texts = list(dict.fromkeys([*candidates, *references]))
        if not texts:
            return np.zeros(0, np.float32)
        vectors = np.asarray(self.encoder.encode(texts), np.float32)
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        row = {text: i for i, text in enumerate(texts)}
        a = vectors[[row[text] for text in candidates]]
        b = vectors[[row[text] for text in references]]
        return np.sum(a * b, axis=1)


class Gated:
    """A score of the pairs that a rule lets through; the others have -inf and are not scored."""

    def __init__(self, score, rule: Callable[[str, str], bool] = agreement):
        self.score, self.rule = score, rule

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """[n] float32."""
        out = np.full(len(candidates), -np.inf, np.float32)
        kept = [i for i, pair in enumerate(zip(candidates, references)) if self.rule(*pair)]
        out[kept] = self.score([candidates[i] for i in kept], [references[i] for i in kept])
        return out


def embedding_judge(encoder: Encoder, threshold: float = GATED_THRESHOLD) -> ScoreJudge:
    """Cosine at or over a threshold, and `agreement`.

    The default threshold is calibrated for all-MiniLM-L6-v2: `GATED_THRESHOLD`.

    Raises:
      ValueError: the threshold is no cosine.
    """
    return ScoreJudge(Gated(Cosine(encoder)), _cosine(threshold))


def cosine_judge(encoder: Encoder, threshold: float = COSINE_THRESHOLD) -> ScoreJudge:
    """Cosine at or over a threshold, alone.

    The default threshold is calibrated for all-MiniLM-L6-v2: `COSINE_THRESHOLD`.

    Raises:
      ValueError: the threshold is no cosine.
    """
    return ScoreJudge(Cosine(encoder), _cosine(threshold))


def _cosine(threshold: float) -> float:
    if not -1.0 <= threshold <= 1.0:
        raise ValueError(f"threshold={threshold} is no cosine; choose it within [-1, 1]")
    return threshold
