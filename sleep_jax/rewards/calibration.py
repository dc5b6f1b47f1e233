"""Calibration of a judge's threshold on labelled pairs of texts that ship with the package.

A policy exploits what a judge accepts wrongly. So the threshold is the one that accepts the most
pairs with the same meaning at a bounded rate of false positives (Neyman and Pearson), and not one
that weighs both errors alike, such as Youden's.
"""

import collections
import dataclasses
import importlib.resources
import json
import warnings
from collections.abc import Sequence

import numpy as np

from sleep_jax.rewards.judge import Score, ScoreJudge

PROBE = "data/samples/judge_probe.jsonl"
MAX_FALSE_POSITIVES = 0.05  # rate among pairs that differ in meaning
MIN_TRUE_POSITIVES = 0.2  # rate among pairs of one meaning; a judge below it is of little use


@dataclasses.dataclass(frozen=True)
class JudgePair:
    """A labelled pair of texts.

    Attributes:
      kind: of the change that makes one of the other, e.g. `number` or `negated`.
      same: the texts have the same meaning.
      a, b: the texts.
    """

    kind: str
    same: bool
    a: str
    b: str


def read_probe() -> tuple[list[JudgePair], list[JudgePair]]:
    """The packaged probe: (calibration half, test half), every other pair of each kind."""
    halves, seen = ([], []), collections.Counter()
    lines = importlib.resources.files("sleep_jax").joinpath(PROBE).read_text(encoding="utf-8")
    for line in lines.splitlines():
        pair = JudgePair(**json.loads(line))
        halves[seen[pair.kind] % 2].append(pair)
        seen[pair.kind] += 1
    return halves


def score_pairs(score: Score, pairs: Sequence[JudgePair]) -> tuple[np.ndarray, np.ndarray]:
    """(scores float64 [n], labels bool [n]): labels are true for pairs of the same meaning."""
    scores = score([pair.a for pair in pairs], [pair.b for pair in pairs])
    return np.asarray(scores, float), np.array([pair.same for pair in pairs])


def choose_threshold(
    scores: np.ndarray, same: np.ndarray, max_false_positives: float = MAX_FALSE_POSITIVES
) -> float:
    """The threshold with the most true positives among those with few enough false positives.

    Of several, the one with the fewest false positives, in the middle between two finite scores.

    Args:
      scores: float [n].
      same: bool [n], labels.
      max_false_positives: largest rate of false positives.

    Returns:
      The least score to be accepted; inf if no threshold accepts any pair of the same meaning.

    Raises:
      ValueError: only one of the two labels occurs.
    """
    if same.all() or not same.any():
        raise ValueError(
            "all labels are equal; give pairs of one meaning and pairs of different ones"
        )
    levels = np.unique(scores[np.isfinite(scores)])
    best, chosen = (0.0, 0.0), float("inf")
    for below, level in zip([*levels[:1], *levels[:-1]], levels):
        true_rate, false_rate = np.mean(scores[same] >= level), np.mean(scores[~same] >= level)
        if false_rate <= max_false_positives and (true_rate, -false_rate) > best:
            best, chosen = (true_rate, -false_rate), (below + level) / 2
    return float(chosen)


def calibrated_judge(score: Score) -> ScoreJudge:
    """The judge of a score with a threshold chosen on the probe's calibration half; warns if it
    accepts so few pairs of the same meaning that it would hardly ever reward."""
    scores, same = score_pairs(score, read_probe()[0])
    threshold = choose_threshold(scores, same)
    if (accepted := np.mean(scores[same] >= threshold)) < MIN_TRUE_POSITIVES:
        warnings.warn(
            f"this judge accepts {accepted:.0%} of the probe's texts that say the same if at most "
            f"{MAX_FALSE_POSITIVES:.0%} of the others may pass, so it will seldom reward; choose "
            "seeding.judge='embedding' or a larger model",
            stacklevel=2,
        )
    return ScoreJudge(score, threshold)
