"""GRPO: its advantages and gradient by hand, and a reward that it raises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stopped import Stop, StoppedAt

from sleep_jax.baselines.grpo import (
    GRPOConfig,
    Rollouts,
    deepseek_math,
    grpo,
    policy_loss,
)
from sleep_jax.baselines.model import Leaves
from sleep_jax.baselines.sft import with_lora
from sleep_jax.data.examples import make_examples
from sleep_jax.evals.likelihood import log_probs
from sleep_jax.models.decoder_config import LoraConfig
from sleep_jax.rl.algorithms import surrogate
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.runtime.mid_phase import MidPhaseCheckpoint

LORA = LoraConfig(rank=4, alpha=8.0, targets=("q", "v", "down"))


@pytest.fixture(scope="module")
def model(tiny):
    return with_lora(tiny, LORA, jax.random.key(1))


@pytest.mark.slow
def test_grpo_raises_a_reward_and_leaves_other_leaves_alone(model):
    """The share of tokens below 128, about a half at first; the tied embedding learns."""
    config = GRPOConfig(
        steps=20,
        prompts=2,
        num_generations=16,
        max_new_tokens=4,
        learning_rate=2e-2,
        surrogate=surrogate("grpo", kl_coef=1e-3),
    )
    figures = []
    trained = grpo(
        model,
        Leaves("params/embed/.*"),
        [(5, 6, 7), (8, 9), (10,)],
        lambda prompt, completion: float(np.mean(np.array(completion.tokens) < 128)),
        config,
        rng=jax.random.key(0),
        log=lambda _, x: figures.append(x),
    )
    rewards = [x["reward"] for x in figures]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.25
    assert figures[0]["kl"] == pytest.approx(0, abs=1e-6) and figures[-1]["kl"] > 0.01
    frozen = [Leaves("params/embed/.*").split(m.variables)[1] for m in (trained, model)]
    for x, y in zip(*map(jax.tree.leaves, frozen)):
        np.testing.assert_array_equal(x, y)


def test_grpo_goes_on_after_a_stop_with_the_same_bits(model, tmp_path):
    config = GRPOConfig(
        steps=4, prompts=2, num_generations=16, max_new_tokens=4, learning_rate=1e-2
    )

    def run(checkpoint=None):
        return grpo(
            model,
            Leaves("params/embed/.*"),
            [(5, 6, 7), (8, 9), (10,)],
            lambda prompt, completion: float(prompt + completion.tokens[0] % 7),
            config,
            rng=jax.random.key(0),
            checkpoint=checkpoint,
        )

    with PhaseCheckpoints(tmp_path) as saved:
        with pytest.raises(Stop):
            run(StoppedAt(saved, "grpo", every=2, watch=None))
        again = run(MidPhaseCheckpoint(saved, "grpo", every=100, watch=None))
    for x, y in zip(*map(jax.tree.leaves, (run().variables, again.variables))):
        np.testing.assert_array_equal(x, y)


def test_policy_loss_gradient_by_hand(model):
    """Of one group: - mean over completions of the advantage times the mean log-probability of
    their tokens; advantages are the rewards less their mean, over their spread."""
    rewards = np.array([[1.0, 0.0, 0.5]], np.float32)
    options = surrogate("grpo")
    advantages, _ = options.advantages(jnp.asarray(rewards))
    want = (rewards - 0.5) / (np.std(rewards, ddof=1) + 1e-4)
    np.testing.assert_allclose(advantages, want, rtol=1e-6)
    pairs = [((1, 2), (3, 4)), ((1, 2), (5,)), ((1, 2), (6, 7, 8))]
    rows = jax.tree.map(lambda x: x[0], make_examples([pairs], is_packed=False))
    batch = Rollouts(rows, rows.mask, advantages[0], rewards[0], np.zeros(rows.tokens.shape))
    trainable = Leaves("lora/.*")
    trained, frozen = trainable.split(model.variables)

    def loss(trained):
        policy = model.replace(variables=trainable.merge(trained, frozen))
        total, count, _ = policy_loss(options, False)(policy, batch, None)
        return total / count

    def by_hand(trained):
        scores = log_probs(model.cfg, trainable.merge(trained, frozen), rows)
        return -jnp.mean(want[0] * scores.sum(-1) / rows.mask.sum(-1))

    got, expected = (jax.tree.leaves(jax.jit(jax.grad(f))(trained)) for f in (loss, by_hand))
    for x, y in zip(got, expected):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-7)
    assert any(np.any(x) for x in got)


def test_grpo_config_is_that_of_deepseek_math():
    config = GRPOConfig()
    assert config.surrogate == deepseek_math() and config.surrogate.kl_coef == 0.04
    assert config.prompts * config.num_generations == 1024
    with pytest.raises(
        ValueError, match=r"grpo\.num_generations=1; give a whole number at least 2"
    ):
        GRPOConfig(num_generations=1)
    with pytest.raises(ValueError, match="no prompt to be rewarded for"):
        grpo(None, None, [], None, config, rng=None)
