"""Reward: a dream earns by how much the model that learnt it answers better (Eq. 5).

    gain_i = mean over seeds of tau(adapted_i) - tau(base), on the same questions

    binary   1 where gain > margin                                    Eq. 5, with margin 0
    margin   gain where gain > margin, else 0                         a reward of degree
    top_1    1 for the best of its document where gain > margin       SEAL, with margin -inf

A tie with the margin earns 0, and so does a trial that diverged. Where all dreams about a document
are as good as each other, and no better than the model that wrote them, none is the best.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from sleep_jax.data.examples import Examples
from sleep_jax.dreaming.trial import Hyperparameters, TrialConfig, train_adapters
from sleep_jax.evals.adapted import Adapted
from sleep_jax.evals.items import RewardItems
from sleep_jax.evals.scorers import IN_WORDS, Scorer
from sleep_jax.settings import Settings, setting

FORMS = ("binary", "margin", "top_1")
ROUNDING = 1e-6  # what a mean of equal scores may differ by


@dataclasses.dataclass(frozen=True)
class RewardConfig(Settings, section="dreaming"):
    """What is measured and what it earns.

    Raises:
      ValueError: a field has no such value, or fields that cannot be together.
    """

    scorer: str = setting("likelihood", "tau of the model's own answers", choices=IN_WORDS)
    form: str = setting("binary", "what a rise of tau earns", choices=FORMS, name="reward")
    margin: float = setting(
        0.0, "that a rise has to exceed, in units of the scorer; -inf: any (SEAL)", least=-math.inf
    )

    def check(self) -> None:
        if self.form == "margin" and not self.margin >= 0:
            raise ValueError(
                f"dreaming.margin={self.margin} with dreaming.reward='margin' would reward dreams "
                "that do harm; set dreaming.margin=0 or more, or dreaming.reward='top_1'"
            )


def gains(
    base: Adapted,
    trial: TrialConfig,
    score: Scorer,
    adapters: Sequence,
    learnt: Examples,
    documents: Sequence[int],
    items: RewardItems,
    hyper: Hyperparameters | None = None,
) -> np.ndarray:
    """Trains a trial adapter on every dream for every seed, and sees by how much tau rose.

    Args:
      base: the model as it is now.
      trial: how an adapter is trained.
      score: tau.
      adapters: one at birth for each seed.
      learnt: what each dream's trial learns from, [dreams, rows, time].
      documents: each dream's; it has at least one item.
      items: what tau asks.
      hyper: of each dream; None: as configured.

    Returns:
      tau(adapted) - tau(base), float32 [dreams, seeds].
    """
    trained, _ = train_adapters(base.cfg, trial, base.variables, adapters, learnt, hyper)
    each = {document: items.about(document) for document in sorted(set(documents))}
    before = {d: marks.mean for d, marks in zip(each, score(base, list(each.values())))}
    asked = [each[document] for document in documents for _ in adapters]
    after = np.array([marks.mean for marks in score(base.wearing(trained), asked)])
    gain = after.reshape(len(documents), -1) - np.array([[before[d]] for d in documents])
    return gain.astype(np.float32)


def earned(config: RewardConfig, gain: np.ndarray, documents: Sequence[int]) -> np.ndarray:
    """The reward of every dream, float32 [dreams].

    Args:
      config: its form.
      gain: [dreams, seeds]; NaN where the trial diverged.
      documents: each dream's; those of one document compete in `top_1`, the first of equals wins.
    """
    gain, documents = gain.mean(axis=1, dtype=np.float64), np.asarray(documents)
    gain = np.where(np.isnan(gain), -np.inf, gain)  # argmax would take it for the best
    rose = gain > config.margin + ROUNDING
    if config.form == "margin":
        return np.where(rose, gain, 0.0).astype(np.float32)
    if config.form == "top_1":
        for document in set(documents.tolist()):
            mine = np.flatnonzero(documents == document)
            best = mine[np.argmax(gain[mine])]
            if len(mine) > 1 and np.allclose(gain[mine], gain[best], 0, ROUNDING):
                best = mine[gain[mine] > ROUNDING][:1]
            rose[np.setdiff1d(mine, best)] = False
    return rose.astype(np.float32)
