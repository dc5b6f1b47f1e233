"""r_sem of Eq. 3 ("Language Models Need Sleep"): do two texts say the same, 0 or 1. Every judge is
a score of pairs and a threshold.

    judge      score                                                           module
    embedding  cosine of sentence embeddings where the rules of agreement hold semantic
    cosine     cosine of sentence embeddings                                   semantic
    agreement  the rules alone: numbers, units, names, negation, frame         agreement
    exact      equality after normalisation                                    judge
    model      yes over no, as the frozen initial model answers                yes_no
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from sleep_jax.data.answers import answer_words

JUDGES = ("embedding", "cosine", "agreement", "exact", "model")


class Judge(Protocol):
    """Says which candidates mean the same as their references: float32 [n] of 0 or 1."""

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> np.ndarray: ...


class Score(Protocol):
    """How much pairs of texts say the same: float32 [n], more is more, -inf is never."""

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class ScoreJudge:
    """A judge that accepts pairs whose score is at or over a threshold.

    Attributes:
      score: of pairs; asked only about those that are not plainly alike or blank.
      threshold: least score of texts that say the same.
    """

    score: Score
    threshold: float

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """Judges pairs of texts.

        Args:
          candidates: n texts of the student.
          references: n texts of the teacher.

        Returns:
          [n] float32 of 0 and 1. Two blank texts say the same, one blank text never does.

        Raises:
          ValueError: the two have different lengths.
        """
        if len(candidates) != len(references):
            raise ValueError(
                f"{len(candidates)} candidates, {len(references)} references; pass one each a pair"
            )
        pairs = [(a.strip(), b.strip()) for a, b in zip(candidates, references)]
        out = np.array([a == b for a, b in pairs], np.float32)
        rest = [i for i, (a, b) in enumerate(pairs) if a and b and a != b]
        if rest:
            scores = self.score(*zip(*(pairs[i] for i in rest)))
            out[rest] = np.asarray(scores) >= self.threshold
        return out


def rule_judge(rule: Callable[[str, str], bool]) -> ScoreJudge:
    """The judge that says what a rule says of each pair."""

    def score(candidates, references):
        return np.array([rule(a, b) for a, b in zip(candidates, references)], np.float32)

    return ScoreJudge(score, 0.5)


def is_exact(candidate: str, reference: str) -> bool:
    """Equal but for case, articles, punctuation and the spelling of numbers ("seven", "7")."""
    words = answer_words(candidate)
    return bool(words) and words == answer_words(reference)
