"""Rewards of dreams by how much better a model answers after learning them (Eq. 5).

    gain_i = mean over seeds of tau(adapted_i) - tau(baseline), on the same questions

Baselines:

    passage     a model that learnt the dream's passage alone, from the same adapter with as many
                updates. A trial learns the passage, too, so this is the effect of the dream alone.
    untrained   the current model (SEAL)

Rewards:

    binary   1 if gain > margin                                       Eq. 5, with margin 0
    margin   gain if gain > margin, else 0                            a graded reward
    top_1    1 for the best dream of its document if gain > margin    SEAL, with margin -inf

A tie with the margin and a trial that diverged earn 0. If all dreams about a document have the same
gain, and it is not positive, none is the best.
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
ROUNDING = 1e-6  # error of a mean of equal scores


def _binary(gain, exceeds_margin, documents):
    return exceeds_margin


def _margin(gain, exceeds_margin, documents):
    return np.where(exceeds_margin, gain, 0.0)


def _top_1(gain, exceeds_margin, documents):
    is_best = exceeds_margin.copy()
    for document in set(documents.tolist()):
        rivals = np.flatnonzero(documents == document)
        best = rivals[np.argmax(gain[rivals])]
        if len(rivals) > 1 and np.allclose(gain[rivals], gain[best], 0, ROUNDING):
            best = rivals[gain[rivals] > ROUNDING][:1]
        is_best[np.setdiff1d(rivals, best)] = False
    return is_best


# From the gains [dreams], whether each exceeds the margin, and the document of each.
FORMS = {"binary": _binary, "margin": _margin, "top_1": _top_1}


@dataclasses.dataclass(frozen=True)
class RewardConfig(Settings, section="dreaming"):
    """What is measured, and the reward for it.

    Raises:
      ValueError: a field has no such value, or fields contradict each other.
    """

    scorer: str = setting(
        "likelihood",
        "how answers are scored (tau); squad_: SQuAD's published metrics, for English only",
        choices=FREE_TEXT_SCORERS,
    )
    form: str = setting("binary", "the reward for a gain of tau", choices=FORMS, name="reward")
    margin: float = setting(
        0.0, "a gain must exceed it, in units of the scorer; -inf: any (SEAL)", least=-math.inf
    )
    baseline: str = setting(
        "passage",
        "what a gain is measured from: a trial of the passage alone, or the model as is (SEAL)",
        choices=BASELINES,
    )

    def check(self) -> None:
        if self.form == "margin" and not self.margin >= 0:
            raise ValueError(
                f"dreaming.margin={self.margin} with dreaming.reward='margin' would give harmful "
                "dreams a reward; set dreaming.margin=0 or more, or dreaming.reward='top_1'"
            )


@dataclasses.dataclass(frozen=True)
class Gains:
    """Gains of tau by the trials of dreams, float32 [dreams, seeds]; NaN where a trial diverged.

    Attributes:
      untrained: over the current model.
      passage: over a trial of the passage alone; None: there was no such trial.
    """

    untrained: np.ndarray
    passage: np.ndarray | None = None

    def over(self, baseline: str) -> np.ndarray:
        """The gain over one of `BASELINES`, float32 [dreams, seeds].

        Raises:
          ValueError: there is no such baseline, or no passage was tried alone.
        """
        if baseline not in BASELINES:
            raise ValueError(f"dreaming.baseline={baseline!r}; choose from {', '.join(BASELINES)}")
        gain = getattr(self, baseline)
        if gain is None:
            raise ValueError(
                f"dreaming.baseline={baseline!r}, but no passage was tried alone; give "
                "`measure_gains` the passages, or choose 'untrained'"
            )
        return gain

    @property
    def seed_means(self) -> dict[str, list[float]]:
        """Per baseline the gain of every dream, a mean over seeds."""
        gains = {name: getattr(self, name) for name in ("untrained", "passage")}
        return {k: x.mean(axis=1).tolist() for k, x in gains.items() if x is not None}


def measure_gains(
    base: AdaptedModels,
    trial: TrialConfig,
    score: Scorer,
    adapters: Sequence,
    examples: Examples,
    documents: Sequence[int],
    items: RewardItems,
    *,
    passages: Sequence[int] = (),
    hyper: Hyperparameters | None = None,
    rng=None,
) -> Gains:
    """Trains an adapter on every dream for every seed, and measures the gain of tau.

    Args:
      base: the current model.
      trial: how an adapter is trained.
      score: tau.
      adapters: an initial one for each seed.
      examples: of each trial, [trials, rows, time]: first those of the dreams, then one for each of
        `passages`.
      documents: [dreams], the document of each dream; it has at least one item.
      items: the questions of tau.
      passages: documents whose passage is tried alone: those of all dreams, once each, or none.
      hyper: of each trial; None: as configured.
      rng: as for `train_adapters`.
    """
    trained, _ = train_adapters(base.cfg, trial, base.variables, adapters, examples, hyper, rng)
    items_of = {document: items.about(document) for document in sorted(set(documents))}
    base_scores = score(base, list(items_of.values()))
    untrained = {document: scores.mean for document, scores in zip(items_of, base_scores)}
    trial_items = [items_of[document] for document in (*documents, *passages) for _ in adapters]
    trial_scores = score(base.with_adapters(trained), trial_items)
    tau = np.array([scores.mean for scores in trial_scores])
    after, passage_scores = np.split(tau.reshape(-1, len(adapters)), [len(documents)])
    before = np.array([[untrained[d]] for d in documents])
    gain, over_passage = after - before, None
    if passages:
        # Where the trial of a passage diverged, the current model is the baseline.
        after_passage = passage_scores[[passages.index(d) for d in documents]]
        after_passage = np.where(np.isnan(after_passage), before, after_passage)
        over_passage = (after - after_passage).astype(np.float32)
    return Gains(gain.astype(np.float32), over_passage)


def compute_rewards(config: RewardConfig, gain: np.ndarray, documents: Sequence[int]) -> np.ndarray:
    """The reward of every dream, float32 [dreams].

    Args:
      config: form and margin.
      gain: over the baseline, [dreams, seeds]; NaN where a trial diverged.
      documents: [dreams], the document of each; in `top_1` dreams of one document compete, and the
        first one wins a tie.
    """
    gain = gain.mean(axis=1, dtype=np.float64)
    gain = np.where(np.isnan(gain), -np.inf, gain)  # argmax would choose NaN
    exceeds_margin = gain > config.margin + ROUNDING
    return FORMS[config.form](gain, exceeds_margin, np.asarray(documents)).astype(np.float32)
