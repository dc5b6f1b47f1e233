"""Elastic weight consolidation: its Fisher information and penalty by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from plain_model import plain_hidden

from sleep_jax.baselines.ewc import (
    Consolidated,
    EWCConfig,
    diagonal_fisher,
    ewc_loss,
    penalised_loss,
    penalty_of,
    remember,
)
from sleep_jax.baselines.finetune import finetune, finetune_steps
from sleep_jax.baselines.model import Leaves, Model
from sleep_jax.baselines.sft import SFTConfig, cross_entropy, rows_of, sft, with_lora
from sleep_jax.models.decoder import lm_head
from sleep_jax.models.decoder_config import LoraConfig

W, B = np.array([1.0, -2.0]), 0.5
INPUTS = np.array([[1.0, 0.5], [2.0, 1.0], [-1.0, 0.25]], np.float32)
WEIGHTS = Leaves("params/w")
LORA = LoraConfig(rank=2, alpha=4.0, targets=("q", "down"))
PAIRS = [((1, 2), (5, 6, 7)), ((3,), (9, 10)), ((4, 4), (8,))]


def logistic():
    """p(y = 1 | x) = sigmoid(w x + b)."""
    return Model(None, {"params": {"w": jnp.array(W), "b": jnp.array(B)}})


def logistic_score(model, x, rng):
    logit = model.variables["params"]["w"] @ x + model.variables["params"]["b"]
    label = jax.random.bernoulli(rng, jax.nn.sigmoid(jax.lax.stop_gradient(logit)))
    return jnp.where(label, jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit)), 1


def test_fisher_of_a_logistic_model_by_hand():
    p = 1 / (1 + np.exp(-(INPUTS @ W + B)))
    rng = jax.random.key(0)
    got = diagonal_fisher(logistic(), WEIGHTS, INPUTS, rng, logistic_score)["params"]["w"]
    # d log p(y | x) / d w = (y - p) x, squared, of the labels that were drawn.
    labels = np.array([jax.random.bernoulli(k, q) for k, q in zip(jax.random.split(rng, 3), p)])
    want = np.mean((labels - p)[:, None] ** 2 * INPUTS**2, axis=0)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    # Its mean over labels is p (1 - p) x^2.
    keys = jax.random.split(jax.random.key(1), 4000)
    draws = jax.vmap(lambda key: diagonal_fisher(logistic(), WEIGHTS, INPUTS, key, logistic_score))
    mean = np.mean(draws(keys)["params"]["w"], axis=0)
    np.testing.assert_allclose(mean, np.mean((p * (1 - p))[:, None] * INPUTS**2, 0), rtol=0.05)


@pytest.fixture(scope="module")
def model(tiny):
    return tiny


def test_fisher_of_a_decoder_is_the_expectation_over_the_vocabulary(model):
    """Of the last norm's scale: sum_v p(v) (d log p(v) / d scale)^2, a mean over labelled tokens;
    prompts count for nothing."""
    trainable, rows = Leaves("params/final_norm/.*"), rows_of(PAIRS)

    hidden = np.asarray(plain_hidden(model, rows.tokens, rows.segment_ids))[:, :-1]
    head = np.asarray(lm_head(model.cfg, model.variables["params"]))  # the scale is 1 everywhere
    p = np.asarray(jax.nn.softmax(hidden @ head))
    # d log p(v) / d scale = hidden * (head_v - sum_u p(u) head_u)
    slopes = hidden[:, :, None] * (head.T - (p @ head.T)[:, :, None])
    by_token = np.sum(p[..., None] * slopes**2, axis=2)
    want = by_token[rows.mask[:, 1:]].mean(axis=0)
    fisher = jax.jit(
        jax.vmap(lambda key: diagonal_fisher(model, trainable, rows, key)["params"]["final_norm"])
    )
    got = np.asarray(fisher(jax.random.split(jax.random.key(0), 1000))["scale"]).mean(axis=0)
    assert np.corrcoef(got, want)[0, 1] > 0.99
    np.testing.assert_allclose(got.sum(), want.sum(), rtol=0.02)


def test_penalty_by_hand_pulls_to_the_anchor_and_is_logged():
    memory = Consolidated(
        {"params": {"w": jnp.array([0.0, -1.0])}}, {"params": {"w": jnp.array([3.0, 0.5])}}
    )
    trained = WEIGHTS.split(logistic().variables)[0]
    assert penalty_of(trained, memory) == (3 * 1**2 + 0.5 * (-1) ** 2) / 2
    figures = []
    trained = finetune(
        logistic(),
        WEIGHTS,
        penalised_loss(nothing, WEIGHTS, memory, 2.0),
        [np.zeros(1)],
        optax.sgd(0.1),
        steps=1,
        log=lambda _, x: figures.append(x),
    )
    # w -= 0.1 * 2 * F (w - anchor)
    np.testing.assert_allclose(trained.variables["params"]["w"], [1 - 0.6, -2 + 0.1], rtol=1e-6)
    assert trained.variables["params"]["b"] == B
    assert figures[0]["penalty"] == figures[0]["loss"] == 3.5


def nothing(model, batch, rng):
    """A loss of 0 over two tokens."""
    return 0.0 * jnp.sum(model.variables["params"]["w"]), 2


def test_remember_accumulates_with_decay_and_moves_the_anchor(model):
    model = with_lora(model, LORA, jax.random.key(0))
    trainable, config = Leaves("lora/.*"), EWCConfig(decay=0.5, samples=2)
    first = remember(model, trainable, PAIRS, None, config, rng=jax.random.key(1))
    assert jax.tree.structure(first.fisher) == jax.tree.structure({"lora": model.variables["lora"]})
    moved = model.replace(
        variables=model.variables | {"lora": jax.tree.map(lambda x: x + 1, model.variables["lora"])}
    )
    alone = remember(moved, trainable, PAIRS, None, config, rng=jax.random.key(2))
    second = remember(moved, trainable, PAIRS, first, config, rng=jax.random.key(2))
    for old, new, got in zip(*(jax.tree.leaves(x.fisher) for x in (first, alone, second))):
        np.testing.assert_allclose(got, 0.5 * old + new, rtol=1e-6)
    for x, anchor in zip(jax.tree.leaves(moved.variables["lora"]), jax.tree.leaves(second.anchor)):
        np.testing.assert_array_equal(x, anchor)


def test_ewc_keeps_weights_nearer_to_the_last_task_and_compiles_once(model):
    model = with_lora(model, LORA, jax.random.key(0))
    trainable, sft_config = Leaves("lora/.*"), SFTConfig(epochs=4, learning_rate=1e-2, batch_size=0)

    def learn(model, pairs, memory, strength):
        loss = ewc_loss(model, trainable, memory, EWCConfig(strength=strength))
        return sft(model, trainable, pairs, sft_config, rng=jax.random.key(0), loss=loss)

    first = learn(model, PAIRS, None, 0.0)
    assert ewc_loss(model, trainable, None, EWCConfig()) is cross_entropy
    memory = remember(first, trainable, PAIRS, None, EWCConfig(), rng=jax.random.key(1))
    others = [((7, 8), (1, 2, 3)), ((2,), (4, 5)), ((6, 6), (7,))]
    before, distances = finetune_steps._cache_size(), []
    for strength in (0.0, 1e3, 1e6):
        second = learn(first, others, memory, strength)
        moved = trainable.split(second.variables)[0]
        distances.append(float(penalty_of(moved, memory)))
        for x, y in zip(*(jax.tree.leaves(m.variables["params"]) for m in (first, second))):
            np.testing.assert_array_equal(x, y)
    assert distances[0] > 2 * distances[1] > 4 * distances[2]
    assert finetune_steps._cache_size() == before + 1
