"""r_sem of Eq. 3 ("Language Models Need Sleep"): 1 if two texts have the same meaning, else 0. A
judge is a score of pairs and a threshold.

    judge      score                                                           module
    embedding  cosine of sentence embeddings, if the rules of agreement hold   semantic
    cosine     cosine of sentence embeddings                                   semantic
    agreement  the rules alone: numbers, units, names, negation, frame         agreement
    exact      equality after normalisation                                    judge
    model      logit of yes less that of no, of the frozen initial model       yes_no
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from sleep_jax.data.answers import answer_words

JUDGES = ("embedding", "cosine", "agreement", "exact", "model")


class Judge(Protocol):
    """1 for candidates that mean the same as their references, else 0: float32 [n]."""

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> np.ndarray: ...


class Score(Protocol):
    """A score of pairs that grows with how much they mean the same: float32 [n]; -inf: never
    accepted."""

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class ScoreJudge:
    """A judge that accepts pairs whose score is at or over a threshold.

    Attributes:
      score: of pairs; called only with pairs that are neither equal nor blank.
      threshold: least score that is accepted.
    """

    score: Score
    threshold: float

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """Judges pairs of texts.

        Args:
          candidates: n texts of the student.
          references: n texts of the teacher.

        Returns:
          [n] float32 of 0 and 1: 1 for equal texts, surrounding spaces aside, two blank ones
          included; 0 where one of them is blank.

        Raises:
          ValueError: the numbers of candidates and references differ.
        """
        if len(candidates) != len(references):
            raise ValueError(
                f"{len(candidates)} candidates, {len(references)} references; pass as many of both"
            )
        pairs = [(a.strip(), b.strip()) for a, b in zip(candidates, references)]
        out = np.array([a == b for a, b in pairs], np.float32)
        rest = [i for i, (a, b) in enumerate(pairs) if a and b and a != b]
        if rest:
            scores = self.score(*zip(*(pairs[i] for i in rest)))
            out[rest] = np.asarray(scores) >= self.threshold
        return out


def rule_judge(rule: Callable[[str, str], bool]) -> ScoreJudge:
    """The judge that accepts the pairs for which a rule is true."""

    def score(candidates, references):
        return np.array([rule(a, b) for a, b in zip(candidates, references)], np.float32)

    return ScoreJudge(score, 0.5)


def is_exact(candidate: str, reference: str) -> bool:
    """Whether two texts are equal up to case, articles, punctuation and the spelling of numbers
    ("seven", "7")."""
    words = answer_words(candidate)
    return bool(words) and words == answer_words(reference)
