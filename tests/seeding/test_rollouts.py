"""Scores of rollouts, advantages of their tokens, and which exchanges are rolled out."""

import numpy as np
import pytest
from sample_exchanges import exchange

from sleep_jax.models.decoder import Decoder
from sleep_jax.rl.algorithms import surrogate
from sleep_jax.seeding.imitation import ImitationConfig
from sleep_jax.seeding.rollout_buffer import imitable_exchanges
from sleep_jax.seeding.rollout_scores import score_completions
from sleep_jax.seeding.rollouts import with_token_advantages
from sleep_jax.seeding.sequences import BatchShape, Exchange

RNG = np.random.default_rng(0)
SHAPE = BatchShape(batch_size=2, max_length=24, max_target_length=16)


def tokens(n):
    return tuple(RNG.integers(3, 97, n).tolist())


@pytest.mark.slow
def test_score_completions_equals_scoring_each_sequence_separately(cfg, trained, log_probs):
    exchanges = [Exchange(None, tokens(3), (), tokens(n), "rollout") for n in (9, 4, 7, 1, 12, 6)]
    head = {"kernel": RNG.normal(size=32).astype(np.float32), "bias": np.float32(0.5)}
    got, values = score_completions(cfg, trained, exchanges, SHAPE, head)
    for e, scored, value in zip(exchanges, got, values):
        sequence = e.student + e.completion[:-1]
        table = log_probs(trained, sequence)[len(e.student) - 1 :]
        want = table[np.arange(len(e.completion)), e.completion]
        np.testing.assert_allclose(scored, want, atol=1e-4)
        hidden = Decoder(cfg).apply(trained, np.array([sequence]))[0, len(e.student) - 1 :]
        np.testing.assert_allclose(value, hidden @ head["kernel"] + 0.5, atol=1e-3)
    again, values = score_completions(cfg, trained, exchanges, SHAPE)
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate(got))
    assert not np.concatenate(values).any()


def rollout(n, reward, rewarded=True):
    old = RNG.normal(size=n).astype(np.float32) - 2
    reference = RNG.normal(size=n).astype(np.float32) - 2
    return Exchange(
        None,
        (5,),
        (),
        tokens(n),
        "rollout",
        True,
        advantage=reward,
        old_log_probs=old,
        reference_log_probs=reference,
        rewarded=rewarded,
    )


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_with_token_advantages_equals_gae_by_hand(beta):
    """GAE as a double sum; the reward is that of the last token, k1 that of each."""
    rollouts = [rollout(4, 1.0), rollout(2, 0.25), rollout(3, 0.5, rewarded=False)]
    values = [RNG.normal(size=len(e.completion)).astype(np.float32) for e in rollouts]
    ppo = surrogate("ppo", kl_estimator="k1", kl_coef=beta)
    got = with_token_advantages(ppo, rollouts, values, 5)
    raw = []
    for e, v in zip(rollouts, values):
        n = len(v)
        r = -beta * (e.old_log_probs - e.reference_log_probs)
        r[-1] += e.advantage
        delta = r + np.append(v[1:], 0) - v
        raw.append(
            np.array([sum(0.95 ** (s - t) * delta[s] for s in range(t, n)) for t in range(n)])
        )
    rewarded = np.concatenate(raw[:2])
    for e, new, v, a in zip(rollouts, got, values, raw):
        np.testing.assert_allclose(new.returns, a + v, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(new.old_values, v)
        if e.rewarded:
            want = (a - rewarded.mean()) / rewarded.std(ddof=1)
            np.testing.assert_allclose(new.advantage, want, rtol=1e-3, atol=1e-5)
        assert new.completion == e.completion


def test_imitable_exchanges_leaves_out_those_that_are_too_long():
    short, long = exchange(5), exchange(20)
    shape, imitation = (
        BatchShape(batch_size=2, max_length=48, max_target_length=32),
        ImitationConfig(max_new_tokens=4),
    )
    assert imitable_exchanges([short], shape, imitation, 4) == [short]
    with pytest.warns(UserWarning, match="1 of 2 sequences are too long for 4 rollouts"):
        assert imitable_exchanges([short, long], shape, imitation, 4) == [short]
    with pytest.raises(ValueError, match=r"5 rollouts of an update .* may need 3 rows"):
        imitable_exchanges([short, long], shape, imitation, 5)
    assert imitable_exchanges([], shape, imitation, 5) == []
