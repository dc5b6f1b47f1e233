"""Rewards: forms by hand, and gains of trained trials."""

import jax
import numpy as np
import pytest
from small_model import batch_of_rows, model

from sleep_jax.dreaming.adapters import init_adapters
from sleep_jax.dreaming.reward import Gains, RewardConfig, compute_rewards, measure_gains
from sleep_jax.dreaming.trial import TrialConfig
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.evals.items import Item, RewardItems
from sleep_jax.evals.likelihood import mean_nll
from sleep_jax.evals.scorers import Scores

GAIN = np.array([[0.3, 0.1], [0.2, 0.2], [0.1, -0.1], [-0.4, 0.2], [0.05, 0.05]], np.float32)
DOCUMENTS = [0, 0, 1, 1, 2]  # means .2 and .2; 0 and -.1; .05


@pytest.mark.parametrize(
    "form, margin, expected",
    [
        ("binary", 0.0, [1, 1, 0, 0, 1]),
        ("binary", 0.1, [1, 1, 0, 0, 0]),
        ("binary", 0.2, [0, 0, 0, 0, 0]),  # ties with the margin
        ("margin", 0.0, [0.2, 0.2, 0, 0, 0.05]),
        ("top_1", 0.0, [1, 0, 0, 0, 1]),  # the first of equals
        ("top_1", float("-inf"), [1, 0, 1, 0, 1]),  # SEAL: the best, even if no better
    ],
)
def test_compute_rewards_by_hand(form, margin, expected):
    got = compute_rewards(RewardConfig(form=form, margin=margin), GAIN, DOCUMENTS)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-7)


def test_top_1_rewards_none_where_all_gains_are_equal():
    config = RewardConfig(form="top_1", margin=float("-inf"))
    gain = np.array([[0.0], [0.0], [-0.1], [-0.1], [0.2], [0.2], [0.0], [-np.inf], [np.nan]])
    got = compute_rewards(config, gain.astype(np.float32), [0, 0, 1, 1, 2, 2, 3, 4, 4])
    np.testing.assert_array_equal(got, [0, 0, 0, 0, 1, 0, 1, 0, 0])


def test_compute_rewards_ignores_rounding_errors():
    gain = np.array([[-0.1, -0.2, 0.3]], np.float32)
    assert gain.mean(dtype=np.float64) > 0
    assert compute_rewards(RewardConfig(), gain, [0]) == [0.0]


@pytest.mark.parametrize("form", ["binary", "margin", "top_1"])
def test_diverged_trial_has_no_reward_and_no_effect_on_others(form):
    gain = np.array([[np.nan, 0.9], [0.25, 0.25], [np.nan, np.nan]], np.float32)
    for margin in (0.0,) if form == "margin" else (0.0, float("-inf")):
        got = compute_rewards(RewardConfig(form=form, margin=margin), gain, [0, 0, 1])
        np.testing.assert_array_equal(got, [0, 0.25 if form == "margin" else 1, 0])


def test_margin_reward_needs_nonnegative_margin():
    with pytest.raises(ValueError, match=r"dreaming\.margin=-inf with .*'margin'.*top_1"):
        RewardConfig(form="margin", margin=float("-inf"))


def test_unknown_names_raise():
    with pytest.raises(ValueError, match=r"baseline='dream'.*passage, untrained"):
        RewardConfig(baseline="dream")
    with pytest.raises(ValueError, match=r"baseline='base'.*passage, untrained"):
        Gains(GAIN).over("base")
    with pytest.raises(ValueError, match=r"scorer='bleu'.*f1"):
        RewardConfig(scorer="bleu")
    with pytest.raises(ValueError, match=r"reward='best'.*top_1"):
        RewardConfig(form="best")


def test_measure_gains_scores_each_dream_on_its_document():
    cfg, variables = model(targets=("down",))
    adapters = init_adapters(cfg, variables["params"], jax.random.key(0), 2)
    dreams = batch_of_rows(7, 3)
    passages = {0: batch_of_rows(7, 1), 4: jax.tree.map(lambda x: x[1:2], batch_of_rows(7, 3))}
    loss = jax.jit(mean_nll, static_argnums=0)
    items = RewardItems.checked_against((), [Item(d, f"{d}?", ("yes",)) for d in (0, 4)])

    def score(models, items_per_model):
        """Minus the loss on the passage of the document; that of document 4 is dream 1."""
        out = []
        for i, [item] in enumerate(items_per_model):
            model_variables = variables
            if models.adapters is not None:
                adapter = jax.tree.map(lambda x, i=i: x[:, i], models.adapters)
                model_variables = {**variables, "lora": adapter}
            nll = loss(cfg, model_variables, jax.tree.map(lambda x: x[0], passages[item.document]))
            out.append(Scores(np.array([-nll], np.float32), np.ones(1, np.float32)))
        return out

    trial = TrialConfig(epochs=6, learning_rate=1e-2, seeds=2)
    base = AdaptedModels(cfg, variables, None)
    result = measure_gains(base, trial, score, adapters, dreams, [4, 4, 4], items)
    gain = result.untrained
    assert gain.shape == (3, 2) and result.passage is None
    assert np.all(gain[1] > 0) and np.all(gain[1] > gain[0]) and np.all(gain[1] > gain[2])


def test_gain_over_passage_is_relative_to_passage_trial():
    """tau is stubbed by given numbers."""
    cfg, variables = model(targets=("down",))
    adapters = init_adapters(cfg, variables["params"], jax.random.key(0), 2)
    items = RewardItems.checked_against((), [Item(d, f"{d}?", ("yes",)) for d in (0, 4)])
    untrained = {0: 0.2, 4: 0.1}

    def score(models, items_per_model):
        untrained_scores = [untrained[item.document] for [item] in items_per_model]
        scores = (
            untrained_scores if models.adapters is None else [next(tau) for _ in items_per_model]
        )
        return [Scores(np.array([x], np.float32), np.ones(1, np.float32)) for x in scores]

    # Trials of dreams about 4, 0, 4 and of the passages 0 and 4, two seeds of each.
    tau = iter([0.3, 0.2, 0.9, 0.7, 0.5, 0.5, 0.2, 0.4, 0.1, np.nan])
    examples, trial = batch_of_rows(7, 5), TrialConfig(epochs=1, seeds=2)
    base = AdaptedModels(cfg, variables, None)
    result = measure_gains(
        base, trial, score, adapters, examples, [4, 0, 4], items, passages=[0, 4]
    )
    np.testing.assert_allclose(result.untrained, [[0.2, 0.1], [0.7, 0.5], [0.4, 0.4]], rtol=1e-5)
    # Where the trial of the passage diverged, the baseline is the current model: 0.1.
    np.testing.assert_allclose(result.passage, [[0.2, 0.1], [0.7, 0.3], [0.4, 0.4]], rtol=1e-5)
    assert result.over("passage") is result.passage and result.over("untrained") is result.untrained
    with pytest.raises(ValueError, match=r"baseline='passage', but no passage .*'untrained'"):
        Gains(result.untrained).over("passage")
    assert set(result.seed_means) == {"untrained", "passage"}


def test_dream_that_repeats_its_passage_has_no_reward():
    """A dream that equals its passage has a gain of exactly 0 over it, however large the gain over
    the current model."""
    cfg, variables = model(targets=("down",))
    adapters = init_adapters(cfg, variables["params"], jax.random.key(0), 2)
    passage = batch_of_rows(7, 1)
    examples = jax.tree.map(lambda x: np.repeat(x, 2, axis=0), passage)
    items = RewardItems.checked_against((), [Item(0, "0?", ("yes",))])
    loss = jax.jit(mean_nll, static_argnums=0)

    def score(models, items_per_model):
        out = []
        for i in range(len(items_per_model)):
            adapter = jax.tree.map(lambda x, i=i: x[:, i], models.adapters or {})
            nll = loss(cfg, {**variables, **({"lora": adapter} if adapter else {})}, first(passage))
            out.append(Scores(np.array([-nll], np.float32), np.ones(1, np.float32)))
        return out

    def first(x):
        return jax.tree.map(lambda x: x[0], x)

    trial = TrialConfig(epochs=4, learning_rate=1e-2, seeds=2)
    base = AdaptedModels(cfg, variables, None)
    result = measure_gains(base, trial, score, adapters, examples, [0], items, passages=[0])
    assert np.all(result.untrained > 0.01) and not result.passage.any()
    assert compute_rewards(RewardConfig(), result.over("passage"), [0]) == [0.0]
    assert compute_rewards(RewardConfig(baseline="untrained"), result.over("untrained"), [0]) == [
        1.0
    ]
