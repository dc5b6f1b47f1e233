"""Where a judge's threshold comes from: labelled pairs of texts that ship with the package.

A judge pays a policy, and a policy finds what is paid wrongly. So the threshold is the one that
accepts the most pairs that say the same while at most a given share of the others pass (Neyman and
Pearson), and not one that weighs both errors alike, such as Youden's.
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
MOST_FALSE = 0.05  # share of the pairs that differ that may pass
FEW = 0.2  # share of accepted pairs that say the same below which a judge is of little use


@dataclasses.dataclass(frozen=True)
class JudgePair:
    """Two texts, whether they say the same, and by what `kind` of change they differ."""

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
    """(scores [n], whether each pair says the same, bool [n])."""
    scores = score([pair.a for pair in pairs], [pair.b for pair in pairs])
    return np.asarray(scores, float), np.array([pair.same for pair in pairs])


def choose_threshold(scores: np.ndarray, same: np.ndarray, most_false: float = MOST_FALSE) -> float:
    """The threshold that most pairs that say the same reach, with at most `most_false` of the rest.

    Of the thresholds that do equally well, the one that fewest of the rest reach, and in the
    middle of its gap between two finite scores.

    Returns:
      A threshold to be reached or passed; inf if none will do.

    Raises:
      ValueError: only one of the two labels occurs.
    """
    if same.all() or not same.any():
        raise ValueError("a threshold needs pairs that say the same and pairs that do not")
    levels = np.unique(scores[np.isfinite(scores)])
    best, chosen = (0.0, 0.0), float("inf")
    for below, level in zip([*levels[:1], *levels[:-1]], levels):
        right, false = np.mean(scores[same] >= level), np.mean(scores[~same] >= level)
        if false <= most_false and (right, -false) > best:
            best, chosen = (right, -false), (below + level) / 2
    return float(chosen)


def calibrated(score: Score) -> ScoreJudge:
    """The judge of a score whose threshold has to be found where it runs, on the probe's
    calibration half; warns if it accepts too few texts that say the same to teach anything."""
    scores, same = score_pairs(score, read_probe()[0])
    threshold = choose_threshold(scores, same)
    if (accepted := np.mean(scores[same] >= threshold)) < FEW:
        warnings.warn(
            f"this judge accepts {accepted:.0%} of the probe's texts that say the same if at most "
            f"{MOST_FALSE:.0%} of the others may pass, so it will seldom reward; choose "
            "seeding.judge='embedding' or a larger model",
            stacklevel=2,
        )
    return ScoreJudge(score, threshold)
