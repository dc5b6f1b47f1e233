"""Rewards: forms by hand, and gains of trials that were trained."""

import jax
import numpy as np
import pytest
from small_model import batch_of_rows, model

from sleep_jax.dreaming.reward import Gains, RewardConfig, compute_rewards, measure_gains
from sleep_jax.dreaming.trial import TrialConfig, init_adapters
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.evals.items import Item, RewardItems
from sleep_jax.evals.likelihood import mean_nll
from sleep_jax.evals.scorers import Scores

GAIN = np.array([[0.3, 0.1], [0.2, 0.2], [0.1, -0.1], [-0.4, 0.2], [0.05, 0.05]], np.float32)
OF = [0, 0, 1, 1, 2]  # means .2 and .2; 0 and -.1; .05


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
    got = compute_rewards(RewardConfig(form=form, margin=margin), GAIN, OF)
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
    pair = init_adapters(cfg, variables["params"], jax.random.key(0), 2)
    dreams = batch_of_rows(7, 3)
    pages = {0: batch_of_rows(7, 1), 4: jax.tree.map(lambda x: x[1:2], batch_of_rows(7, 3))}
    loss = jax.jit(mean_nll, static_argnums=0)
    items = RewardItems.checked_against((), [Item(d, f"{d}?", ("yes",)) for d in (0, 4)])

    def score(models, asked):
        """Minus the loss on the page of the document: that of 4 is what dream 1 learns."""
        out = []
        for i, [item] in enumerate(asked):
            held = variables
            if models.adapters is not None:
                own = jax.tree.map(lambda x, i=i: x[:, i], models.adapters)
                held = {**variables, "lora": own}
            nll = loss(cfg, held, jax.tree.map(lambda x: x[0], pages[item.document]))
            out.append(Scores(np.array([-nll], np.float32), np.ones(1, np.float32)))
        return out

    trial = TrialConfig(epochs=6, learning_rate=1e-2, seeds=2)
    base = AdaptedModels(cfg, variables, None)
    found = measure_gains(base, trial, score, pair, dreams, [4, 4, 4], items)
    gain = found.untrained
    assert gain.shape == (3, 2) and found.passage is None
    assert np.all(gain[1] > 0) and np.all(gain[1] > gain[0]) and np.all(gain[1] > gain[2])


def test_gain_over_passage_is_relative_to_passage_trial():
    """tau of given numbers: of every trial its place among all, whatever it learnt."""
    cfg, variables = model(targets=("down",))
    pair = init_adapters(cfg, variables["params"], jax.random.key(0), 2)
    items = RewardItems.checked_against((), [Item(d, f"{d}?", ("yes",)) for d in (0, 4)])
    untrained = {0: 0.2, 4: 0.1}

    def score(models, asked):
        known = [untrained[item.document] for [item] in asked]
        marks = known if models.adapters is None else [next(tau) for _ in asked]
        return [Scores(np.array([x], np.float32), np.ones(1, np.float32)) for x in marks]

    # Trials of dreams about 4, 0, 4 and of the passages 0 and 4, two seeds of each.
    tau = iter([0.3, 0.2, 0.9, 0.7, 0.5, 0.5, 0.2, 0.4, 0.1, np.nan])
    learnt, trial = batch_of_rows(7, 5), TrialConfig(epochs=1, seeds=2)
    base = AdaptedModels(cfg, variables, None)
    found = measure_gains(base, trial, score, pair, learnt, [4, 0, 4], items, passages=[0, 4])
    np.testing.assert_allclose(found.untrained, [[0.2, 0.1], [0.7, 0.5], [0.4, 0.4]], rtol=1e-5)
    # Where the passage's trial diverged, the model as it is stands for it: 0.1.
    np.testing.assert_allclose(found.passage, [[0.2, 0.1], [0.7, 0.3], [0.4, 0.4]], rtol=1e-5)
    assert found.over("passage") is found.passage and found.over("untrained") is found.untrained
    with pytest.raises(ValueError, match=r"baseline='passage', but no passage .*'untrained'"):
        Gains(found.untrained).over("passage")
    assert set(found.seed_means) == {"untrained", "passage"}


def test_dream_that_repeats_its_passage_has_no_reward():
    """One that learns the passage twice over is the passage: its gain over that is 0, bit for bit,
    however much the passage teaches."""
    cfg, variables = model(targets=("down",))
    pair = init_adapters(cfg, variables["params"], jax.random.key(0), 2)
    page = batch_of_rows(7, 1)
    learnt = jax.tree.map(lambda x: np.repeat(x, 2, axis=0), page)
    items = RewardItems.checked_against((), [Item(0, "0?", ("yes",))])
    loss = jax.jit(mean_nll, static_argnums=0)

    def score(models, asked):
        out = []
        for i in range(len(asked)):
            own = jax.tree.map(lambda x, i=i: x[:, i], models.adapters or {})
            nll = loss(cfg, {**variables, **({"lora": own} if own else {})}, first(page))
            out.append(Scores(np.array([-nll], np.float32), np.ones(1, np.float32)))
        return out

    def first(x):
        return jax.tree.map(lambda x: x[0], x)

    trial = TrialConfig(epochs=4, learning_rate=1e-2, seeds=2)
    base = AdaptedModels(cfg, variables, None)
    found = measure_gains(base, trial, score, pair, learnt, [0], items, passages=[0])
    assert np.all(found.untrained > 0.01) and not found.passage.any()
    assert compute_rewards(RewardConfig(), found.over("passage"), [0]) == [0.0]
    assert compute_rewards(RewardConfig(baseline="untrained"), found.over("untrained"), [0]) == [
        1.0
    ]
