"""Learning to imitate: the cut, the rewards, and the rollouts with their advantages."""

import dataclasses

import jax
import numpy as np
import pytest

from sleep_jax.rl.algorithms import Surrogate, surrogate
from sleep_jax.sampling.generate import Completion
from sleep_jax.seeding import imitation
from sleep_jax.seeding.imitation import ImitationConfig, absolute_reward, roll_out, split
from sleep_jax.seeding.sequences import Exchange


def dream(completion, document=0):
    return Exchange(document, (1, 2), (3,), tuple(completion), "answer")


def test_a_cut_moves_the_prefix_into_both_prompts():
    begun, rest = split(dream([10, 11, 12, 13]), 0.5)
    assert begun.student == (1, 2, 10, 11) and begun.teacher == (3, 10, 11)
    assert begun.completion == () and rest == (12, 13)
    assert (begun.document, begun.kind) == (0, "answer")


@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_both_sides_of_a_cut_keep_a_token(n, share):
    begun, rest = split(dream(range(10, 10 + n)), share)
    assert begun.student[2:] + rest == tuple(range(10, 10 + n))
    assert len(begun.student) > 2 and len(rest) > 0
    assert abs(len(begun.student) - 2 - share * n) <= 1


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


def test_rollouts_are_what_was_written_and_paid(cfg, tokenizer, monkeypatch):
    eos = tokenizer.eos_ids[0]
    dreams = [dream(tokenizer.encode("abcdefghij"), 1), dream(tokenizer.encode("klmnopqrst"), None)]
    config = ImitationConfig(gamma=0.25, group=2, cut=(0.4, 0.4), max_new_tokens=5)
    words = ["efghi", "efgzz", "opqr", "opqr"]  # the last two end by themselves
    written = [tuple(tokenizer.encode(w)) + (eos,) * (len(w) < 5) for w in words]
    asked = {}

    def generate(cfg, sampling, variables, prompts, rng, *, width):
        asked.update(sampling=sampling, variables=variables, prompts=prompts, width=width)
        drawn = [Completion(w, np.arange(5) - 8.0, w[-1] == eos) for w in written]
        return [drawn[:2], drawn[2:]]

    def judge(candidates, references):
        asked.update(candidates=candidates, references=references)
        return np.array([1, 0, 1, 1], np.float32)

    monkeypatch.setattr(imitation, "generate", generate)
    rollouts, metrics = roll_out(
        cfg, "student", tokenizer, judge, config, dreams, jax.random.key(0), width=24
    )
    prefixes = [tuple(tokenizer.encode(p)) for p in ("abcd", "klmn")]
    assert asked["prompts"] == [(1, 2, *p) for p in prefixes]
    assert (asked["variables"], asked["width"]) == ("student", 24)
    sampling = asked["sampling"]
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (1.0, 0, 1.0)
    assert (sampling.group, sampling.max_new_tokens) == (2, 5)
    assert sampling.eos_ids == tokenizer.eos_ids
    assert asked["candidates"] == words
    assert asked["references"] == ["efghi"] * 2 + ["opqrs"] * 2  # cut at the limit

    # r = 1/4 r_sem + 3/4 r_abs, with r_abs = 1 and 3/5, then 4/5 twice.
    rewards = [1.0, 0.75 * 0.6, 0.25 + 0.75 * 0.8, 0.25 + 0.75 * 0.8]
    np.testing.assert_allclose(metrics["reward"], np.mean(rewards), rtol=1e-5)
    np.testing.assert_allclose(metrics["reward_sem"], 0.75)
    np.testing.assert_allclose(metrics["reward_abs"], 0.8, rtol=1e-5)
    assert (metrics["tied"], metrics["rollout_length"]) == (0.5, 5)
    half = (rewards[0] - rewards[1]) / 2
    np.testing.assert_allclose([r.advantage for r in rollouts], [half, -half, 0, 0], atol=1e-6)
    for i, r in enumerate(rollouts):
        assert r.student == (1, 2, *prefixes[i // 2]) and r.teacher == (3, *prefixes[i // 2])
        assert r.completion == written[i]
        assert r.document == (1, None)[i // 2] and r.on_policy and not r.is_dream
        np.testing.assert_array_equal(r.log_probs, np.arange(5) - 8.0)
    # The second group is tied, the first was cut off.
    for estimator, learns in (
        (Surrogate(), [True] * 4),
        (surrogate("dapo"), [True, True, False, False]),
        (Surrogate(skip_truncated=True), [False, False, True, True]),
    ):
        chosen = dataclasses.replace(config, surrogate=estimator)
        rollouts, _ = roll_out(
            cfg, "student", tokenizer, judge, chosen, dreams, jax.random.key(0), width=24
        )
        assert [r.rewarded for r in rollouts] == learns


@pytest.mark.parametrize(
    "options, message",
    [
        ({"gamma": 1.1}, r"seeding.gamma=1.1; it must lie in \[0, 1\]"),
        ({"cut": (0.9, 0.1)}, r"seeding.cut=\(0.9, 0.1\)"),
        ({"cut": (-0.1, 0.5)}, "give 0 <= low <= high <= 1"),
        ({"group": 1}, "seeding.group=1; a group is compared"),
    ],
)
def test_settings_that_make_no_sense_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        ImitationConfig(**options)
