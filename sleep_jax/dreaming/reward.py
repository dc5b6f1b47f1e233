"""Reward: a dream earns by how much the model that learnt it answers better (Eq. 5).

    gain_i = mean over seeds of tau(adapted_i) - tau(baseline), on the same questions

    passage     baseline: a model that learnt the dream's passage alone, from the same start by as
                many updates. A trial learns the passage, too: what that alone teaches is none of
                the dream's merit.
    untrained   baseline: the model as it is (SEAL)

    binary   1 where gain > margin                                    Eq. 5, with margin 0
    margin   gain where gain > margin, else 0                         a reward of degree
    top_1    1 for the best of its document where gain > margin       SEAL, with margin -inf

A tie with the margin earns 0, and so does a trial that diverged. Where all dreams about a document
are as good as each other, and no better than the baseline, none is the best.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from sleep_jax.data.examples import Examples
from sleep_jax.dreaming.trial import Hyperparameters, TrialConfig, train_adapters
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.evals.items import RewardItems
from sleep_jax.evals.scorers import FREE_TEXT_SCORERS, Scorer
from sleep_jax.settings import Settings, setting

BASELINES = ("passage", "untrained")
ROUNDING = 1e-6  # what a mean of equal scores may differ by


def _binary(gain, has_risen, documents):
    return has_risen


def _margin(gain, has_risen, documents):
    return np.where(has_risen, gain, 0.0)


def _top_1(gain, has_risen, documents):
    has_won = has_risen.copy()
    for document in set(documents.tolist()):
        rivals = np.flatnonzero(documents == document)
        best = rivals[np.argmax(gain[rivals])]
        if len(rivals) > 1 and np.allclose(gain[rivals], gain[best], 0, ROUNDING):
            best = rivals[gain[rivals] > ROUNDING][:1]
        has_won[np.setdiff1d(rivals, best)] = False
    return has_won


# From the gains [dreams], whether each exceeds the margin, and the document of each.
FORMS = {"binary": _binary, "margin": _margin, "top_1": _top_1}


@dataclasses.dataclass(frozen=True)
class RewardConfig(Settings, section="dreaming"):
    """What is measured and what it earns.

    Raises:
      ValueError: a field has no such value, or fields that cannot be together.
    """

    scorer: str = setting(
        "likelihood",
        "tau of the model's own answers; squad_: as published, which knows English alone",
        choices=FREE_TEXT_SCORERS,
    )
    form: str = setting("binary", "what a rise of tau earns", choices=FORMS, name="reward")
    margin: float = setting(
        0.0, "that a rise has to exceed, in units of the scorer; -inf: any (SEAL)", least=-math.inf
    )
    baseline: str = setting(
        "passage",
        "what tau has to rise above: a trial of the passage alone, or the untrained model (SEAL)",
        choices=BASELINES,
    )

    def check(self) -> None:
        if self.form == "margin" and not self.margin >= 0:
            raise ValueError(
                f"dreaming.margin={self.margin} with dreaming.reward='margin' would reward dreams "
                "that do harm; set dreaming.margin=0 or more, or dreaming.reward='top_1'"
            )


@dataclasses.dataclass(frozen=True)
class Gains:
    """By how much tau is higher after the trial of each dream, float32 [dreams, seeds]; NaN where
    the trial diverged.

    Attributes:
      untrained: than that of the model as it is.
      passage: than after a trial of the passage alone; None: there was no such trial.
    """

    untrained: np.ndarray
    passage: np.ndarray | None = None

    def over(self, baseline: str) -> np.ndarray:
        """The gain over one of `BASELINES`.

        Raises:
          ValueError: there is no such baseline, or no passage was tried alone.
        """
        if baseline not in BASELINES:
            raise ValueError(f"dreaming.baseline={baseline!r}; choose from {', '.join(BASELINES)}")
        gain = getattr(self, baseline)
        if gain is None:
            raise ValueError(
                f"dreaming.baseline={baseline!r}, but no passage was tried alone; give `gains` the "
                "passages, or choose 'untrained'"
            )
        return gain

    @property
    def means(self) -> dict[str, list[float]]:
        """Over the seeds, by the name of the baseline, of every dream."""
        gains = {name: getattr(self, name) for name in ("untrained", "passage")}
        return {k: x.mean(axis=1).tolist() for k, x in gains.items() if x is not None}


def measure_gains(
    base: AdaptedModels,
    trial: TrialConfig,
    score: Scorer,
    adapters: Sequence,
    learnt: Examples,
    documents: Sequence[int],
    items: RewardItems,
    *,
    passages: Sequence[int] = (),
    hyper: Hyperparameters | None = None,
    rng=None,
) -> Gains:
    """Trains a trial adapter on every dream for every seed, and sees by how much tau rose.

    Args:
      base: the model as it is now.
      trial: how an adapter is trained.
      score: tau.
      adapters: one at birth for each seed.
      learnt: what each trial learns from, [trials, rows, time]: first each dream's, then a
        passage's alone for each of `passages`.
      documents: each dream's; it has at least one item.
      items: what tau asks.
      passages: documents whose passage is learnt alone, for comparison: those of all dreams, once
        each, or none.
      hyper: of each trial; None: as configured.
      rng: as for `train_adapters`.
    """
    trained, _ = train_adapters(base.cfg, trial, base.variables, adapters, learnt, hyper, rng)
    about = {document: items.about(document) for document in sorted(set(documents))}
    untrained = {d: marks.mean for d, marks in zip(about, score(base, list(about.values())))}
    asked = [about[document] for document in (*documents, *passages) for _ in adapters]
    scores = np.array([marks.mean for marks in score(base.with_adapters(trained), asked)])
    after, passage_scores = np.split(scores.reshape(-1, len(adapters)), [len(documents)])
    before = np.array([[untrained[d]] for d in documents])
    gain, over_passage = after - before, None
    if passages:
        # A passage that was not learnt, since its trial diverged, leaves the model as it is.
        after_passage = passage_scores[[passages.index(d) for d in documents]]
        after_passage = np.where(np.isnan(after_passage), before, after_passage)
        over_passage = (after - after_passage).astype(np.float32)
    return Gains(gain.astype(np.float32), over_passage)


def compute_rewards(config: RewardConfig, gain: np.ndarray, documents: Sequence[int]) -> np.ndarray:
    """The reward of every dream, float32 [dreams].

    Args:
      config: its form.
      gain: over the baseline, [dreams, seeds]; NaN where the trial diverged.
      documents: each dream's; those of one document compete in `top_1`, the first of equals wins.
    """
    gain = gain.mean(axis=1, dtype=np.float64)
    gain = np.where(np.isnan(gain), -np.inf, gain)  # argmax would take it for the best
    has_risen = gain > config.margin + ROUNDING
    return FORMS[config.form](gain, has_risen, np.asarray(documents)).astype(np.float32)
