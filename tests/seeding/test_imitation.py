"""Learning to imitate: the cut, the rewards, and the rollouts with their advantages."""

import dataclasses

import jax
import numpy as np
import pytest

from sleep_jax.rl.algorithms import Surrogate, surrogate
from sleep_jax.sampling.generate import Completion
from sleep_jax.seeding import rollouts as module
from sleep_jax.seeding.imitation import (
    ImitationConfig,
    absolute_reward,
    prefix_shares,
    split_prefix,
)
from sleep_jax.seeding.rollouts import sample_rollouts
from sleep_jax.seeding.sequences import Exchange


def dream(completion, document=0):
    return Exchange(document, (1, 2), (3,), tuple(completion), "answer")


def test_split_prefix_moves_the_prefix_into_both_prompts():
    prompt, reference = split_prefix(dream([10, 11, 12, 13]), 0.5)
    assert prompt.student == (1, 2, 10, 11) and prompt.teacher == (3, 10, 11)
    assert prompt.completion == () and reference == (12, 13)
    assert (prompt.document, prompt.kind) == (0, "answer")


@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_split_prefix_leaves_a_token_on_both_sides(n, share):
    prompt, reference = split_prefix(dream(range(10, 10 + n)), share)
    assert prompt.student[2:] + reference == tuple(range(10, 10 + n))
    assert len(prompt.student) > 2 and len(reference) > 0
    assert abs(len(prompt.student) - 2 - share * n) <= 1


def test_prefix_shares_follow_their_distribution():
    def mean_and_spread(**options):
        shares = prefix_shares(ImitationConfig(**options), jax.random.key(0), 4000)
        low, high = options["prefix_range"]
        assert shares.shape == (4000,) and low <= shares.min() <= shares.max() <= high
        return shares.mean(), shares.std()

    # Uniform over a width w: deviation w / sqrt(12); Beta(a, b) a mean of a / (a + b) and a
    # variance of ab / (a + b)^2 (a + b + 1), here 3 / 80.
    np.testing.assert_allclose(
        mean_and_spread(prefix_range=(0.1, 0.9)), (0.5, 0.8 / 12**0.5), rtol=0.03
    )
    got = mean_and_spread(prefix_range=(0.2, 0.8), prefix_beta=(3.0, 1.0))
    np.testing.assert_allclose(got, (0.2 + 0.6 * 0.75, 0.6 * (3 / 80) ** 0.5), rtol=0.03)
    for beta in ((1.0, 1.0), (2.0, 5.0)):
        fixed = mean_and_spread(prefix_range=(0.4, 0.4), prefix_beta=beta)
        np.testing.assert_allclose(fixed, (0.4, 0.0), atol=1e-6)


def test_absolute_reward_with_a_threshold_in_edits():
    pairs = [([5, 6, 7, 8], [5, 6, 9, 9]), ([5, 6, 7, 8], [5, 9, 9, 9]), ([5], [9])]
    got = absolute_reward(*zip(*pairs), (2,), threshold=2, max_tokens=5, relative=False)
    np.testing.assert_allclose(got, [0.5, 0.0, 0.0])  # 2, 3 and 1 edits of 4, 4 and 1


@pytest.mark.parametrize(
    "candidate, reference, reward",
    [
        ([5, 6, 7, 2], [5, 6, 7], 1.0),  # an end of turn on one side alone costs nothing
        ([5, 6, 7], [5, 6, 7, 0], 1.0),
        ([5, 6, 7, 8], [5, 6, 9, 8], 0.75),
        ([5, 6], [5, 9], 0.5),  # the limit is inclusive
        ([5, 6, 7], [5, 9, 9], 0.0),
        ([5, 6], [5, 6, 7, 8, 9], 0.0),
        ([2], [0], 1.0),  # both empty
        ([2], [5], 0.0),
    ],
)
def test_absolute_reward_by_hand(candidate, reference, reward):
    got = absolute_reward([candidate], [reference], (2, 0), threshold=0.5, max_tokens=5)
    np.testing.assert_allclose(got, [reward], atol=1e-6)


def test_split_prefix_keeps_the_thought_in_the_prompt():
    words = dream(range(10, 20), 1)
    prompt, reference = split_prefix(words, 0.5)
    assert (prompt.student[-5:], reference) == (tuple(range(10, 15)), tuple(range(15, 20)))
    prompt, reference = split_prefix(words, 0.5, thought=4)
    assert reference == tuple(range(17, 20))  # half of the six after the thought
    prompt, reference = split_prefix(words, 0.0, thought=4)
    assert reference == tuple(range(15, 20))
    prompt, reference = split_prefix(words, 1.0, thought=9)
    assert reference == (19,)


def test_sample_rollouts_by_hand(cfg, tokenizer, monkeypatch):
    eos = tokenizer.eos_ids[0]
    dreams = [dream(tokenizer.encode("abcdefghij"), 1), dream(tokenizer.encode("klmnopqrst"), None)]
    config = ImitationConfig(
        gamma=0.25, num_generations=2, prefix_range=(0.4, 0.4), max_new_tokens=5
    )
    words = ["efghi", "efgzz", "opqr", "opqr"]  # the last two end by themselves
    completions = [tuple(tokenizer.encode(w)) + (eos,) * (len(w) < 5) for w in words]
    recorded = {}

    def generate(cfg, sampling, variables, prompts, rng, *, width):
        recorded.update(sampling=sampling, variables=variables, prompts=prompts, width=width)
        drawn = [Completion(w, np.arange(5) - 8.0, w[-1] == eos) for w in completions]
        return [drawn[:2], drawn[2:]]

    def judge(candidates, references):
        recorded.update(candidates=candidates, references=references)
        return np.array([1, 0, 1, 1], np.float32)

    monkeypatch.setattr(module, "generate", generate)
    rollouts, metrics = sample_rollouts(
        cfg, "student", tokenizer, judge, config, dreams, jax.random.key(0), width=24
    )
    prefixes = [tuple(tokenizer.encode(p)) for p in ("abcd", "klmn")]
    assert recorded["prompts"] == [(1, 2, *p) for p in prefixes]
    assert (recorded["variables"], recorded["width"]) == ("student", 24)
    sampling = recorded["sampling"]
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (1.0, 0, 1.0)
    assert (sampling.num_generations, sampling.max_new_tokens) == (2, 5)
    assert sampling.eos_ids == tokenizer.eos_ids
    assert recorded["candidates"] == words
    # References are cut at the limit for completions that were cut off, else whole.
    assert recorded["references"] == ["efghi"] * 2 + ["opqrst"] * 2

    # r = 1/4 r_sem + 3/4 r_abs, with r_abs = 1 and 3/5, then 4/6 twice.
    rewards = [1.0, 0.75 * 0.6, 0.25 + 0.75 * 4 / 6, 0.25 + 0.75 * 4 / 6]
    np.testing.assert_allclose(metrics["reward"], np.mean(rewards), rtol=1e-5)
    np.testing.assert_allclose(metrics["reward_sem"], 0.75)
    np.testing.assert_allclose(metrics["reward_abs"], (1 + 3 / 5 + 8 / 6) / 4, rtol=1e-5)
    assert (metrics["tied"], metrics["rollout_length"]) == (0.5, 5)
    np.testing.assert_allclose(metrics["rollout_rewards"], rewards, rtol=1e-5)
    np.testing.assert_allclose(
        metrics["rollout_advantages"], [r.advantage for r in rollouts], rtol=1e-5
    )
    assert metrics["rollout"].split("\n\n") == [
        "> abcd ...", "1.00 for: efghi", "0.45 for: efgzz", "reference: efghi",
    ]  # fmt: skip
    half = (rewards[0] - rewards[1]) / 2
    np.testing.assert_allclose([r.advantage for r in rollouts], [half, -half, 0, 0], atol=1e-6)
    for i, r in enumerate(rollouts):
        assert r.student == (1, 2, *prefixes[i // 2]) and r.teacher == (3, *prefixes[i // 2])
        assert r.completion == completions[i]
        assert r.document == (1, None)[i // 2] and r.on_policy and not r.is_imitable
        np.testing.assert_array_equal(r.log_probs, np.arange(5) - 8.0)
    # The second group is tied, the completions of the first were cut off.
    for estimator, rewarded in (
        (Surrogate(), [True] * 4),
        (surrogate("dapo"), [True, True, False, False]),
        (Surrogate(mask_truncated_completions=True), [False, False, True, True]),
    ):
        chosen = dataclasses.replace(config, surrogate=estimator)
        rollouts, _ = sample_rollouts(
            cfg, "student", tokenizer, judge, chosen, dreams, jax.random.key(0), width=24
        )
        assert [r.rewarded for r in rollouts] == rewarded


@pytest.fixture
def written(cfg, tokenizer, monkeypatch):
    """(words of two rollouts of "abcdefgh" cut in the middle, config) -> (rollouts, metrics)."""

    def run(words, config, **options):
        drawn = [
            Completion(tuple(tokenizer.encode(w)), np.arange(len(w)) - 3.0, False) for w in words
        ]
        monkeypatch.setattr(module, "generate", lambda *_, **__: [drawn])
        return sample_rollouts(
            cfg,
            None,
            tokenizer,
            lambda c, r: np.zeros(len(c), np.float32),
            dataclasses.replace(
                config, num_generations=2, prefix_range=(0.5, 0.5), gamma=0.0, max_new_tokens=4
            ),
            [dream(tokenizer.encode("abcdefgh"))],
            jax.random.key(0),
            width=24,
            **options,
        )

    return run


def test_sample_rollouts_compares_characters_if_configured(written, tokenizer, monkeypatch):
    # A tokenizer that writes two characters a token.
    monkeypatch.setattr(
        type(tokenizer), "decode", lambda self, ids: "".join(f"{i % 7}-" for i in ids)
    )
    _, by_token = written(["efgx", "xfgx"], ImitationConfig())
    _, by_character = written(["efgx", "xfgx"], ImitationConfig(unit="characters"))
    np.testing.assert_allclose(by_token["reward_abs"], (3 / 4 + 2 / 4) / 2)
    np.testing.assert_allclose(by_character["reward_abs"], (7 / 8 + 6 / 8) / 2)


def test_sample_rollouts_subtracts_the_k1_penalty_from_rewards(written):
    config = ImitationConfig(surrogate=surrogate("group", kl_estimator="k1", kl_coef=0.1))
    scored = []

    def reference(rollouts):
        scored.extend(rollouts)
        return [e.log_probs - 1.0 for e in rollouts]

    rollouts, metrics = written(["efgh", "ef"], config, reference=reference)
    assert [e.completion for e in scored] == [e.completion for e in rollouts]
    # r_abs 1 and 1/2; k1 sums to 4 and 2.
    rewards = np.array([1.0 - 0.4, 0.5 - 0.2])
    got = [e.advantage for e in rollouts]
    np.testing.assert_allclose(got, rewards - rewards.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["reward"], 0.75)
    assert metrics["rollout_unfinished"] == 1
    for e in rollouts:
        np.testing.assert_array_equal(e.reference_log_probs, e.log_probs - 1)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"gamma": 1.1}, "seeding.gamma=1.1; give a number from 0 to 1"),
        ({"prefix_range": (0.9, 0.1)}, r"seeding.prefix_range=\(0.9, 0.1\)"),
        (
            {"prefix_range": (-0.1, 0.5)},
            r"seeding.prefix_range=\(-0.1, 0.5\); give a tuple of 2, each a number from 0 to 1",
        ),
        (
            {"prefix_beta": (0.0, 1.0)},
            r"seeding.prefix_beta=\(0.0, 1.0\); give a tuple of 2, each a number",
        ),
        ({"threshold": -1.0}, "seeding.threshold=-1.0; give a number at least 0"),
        ({"unit": "words"}, "seeding.unit='words'; choose from tokens, characters"),
        (
            {"temperature": 0.0},
            "seeding.rollout_temperature=0.0; give a number .*rollouts of a group must differ",
        ),
        ({"num_generations": 1}, "seeding.num_generations=1; give a whole number at least 2"),
    ],
)
def test_imitation_config_rejects_invalid_settings(options, message):
    with pytest.raises(ValueError, match=message):
        ImitationConfig(**options)
