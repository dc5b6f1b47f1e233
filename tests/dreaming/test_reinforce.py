"""Training data from rewarded dreams."""

import dataclasses

import numpy as np
import pytest

from sleep_jax import config as settings
from sleep_jax.data.documents import Document
from sleep_jax.dreaming.reinforce import (
    passage_sequences,
    policy_gradient_exchanges,
    rewarded_dreams,
    supervised_exchanges,
    trial_sequences,
)
from sleep_jax.dreaming.templates import read_templates
from sleep_jax.dreaming.trial import TrialConfig
from sleep_jax.dreaming.write import Dream
from sleep_jax.interop.prompts import Prompts
from sleep_jax.interop.tiny import byte_tokenizer
from sleep_jax.rl.algorithms import ALGORITHMS, surrogate
from sleep_jax.rl.ppo import apply_value_head, init_value_head
from sleep_jax.seeding.rollouts import with_token_advantages


def test_supervised_exchanges_teach_writing_and_recall():
    tokenizer = byte_tokenizer()
    prompts = Prompts(tokenizer)
    document = Document("a", "Kettles", "Kettles whistle.")
    dream = Dream(0, "paraphrase", (5, 6, 7), "abc")
    writing, recall = supervised_exchanges([dream], [document], prompts, read_templates())
    assert writing.completion == recall.completion == dream.tokens
    assert writing.student == prompts.context(document) + writing.teacher
    assert "whistle" in tokenizer.decode(writing.student)
    assert "whistle" not in tokenizer.decode(recall.student)
    assert recall.teacher == writing.teacher
    assert np.isfinite(recall.advantage)


def test_supervised_exchanges_of_chat_template_have_no_context():
    tokenizer = byte_tokenizer()
    prompts = Prompts(tokenizer)
    document = Document("a", "Kettles", "Kettles whistle.")
    dream = Dream(0, "rewrite", (5, 6, 7), "abc")
    writing, recall = supervised_exchanges([dream], [document], prompts, read_templates())
    assert writing.document is recall.document is None
    assert writing.student == writing.teacher == recall.teacher
    assert "whistle" in tokenizer.decode(writing.teacher)
    assert "whistle" not in tokenizer.decode(recall.student)


def test_supervised_exchanges_of_recipe_teach_writing_only():
    document = Document("a", "Task", "1 0 -> 0 1")
    dream = Dream(0, "recipe", (5, 6, 7), "{}", is_recipe=True)
    [writing] = supervised_exchanges(
        [dream], [document], Prompts(byte_tokenizer()), read_templates()
    )
    assert writing.kind == "write" and writing.supervised


def dreams(*documents):
    return [
        Dream(d, "paraphrase", (5, 6, 7 + i), "abc", log_probs=(-1.0, -2.0, -3.0))
        for i, d in enumerate(documents)
    ]


def test_rewarded_dreams_keeps_the_best_per_document():
    tried, rewards = dreams(0, 0, 0, 1, 1), [0.2, 0.5, 0.3, 0.0, 0.1]
    assert rewarded_dreams(tried, rewards) == [tried[i] for i in (0, 1, 2, 4)]
    assert rewarded_dreams(tried, rewards, cap=2) == [tried[i] for i in (1, 2, 4)]
    assert rewarded_dreams(tried, rewards, cap=1) == [tried[i] for i in (1, 4)]
    assert rewarded_dreams(tried, [0.0, -0.1] * 2 + [0.0]) == []


def test_rewarded_dreams_breaks_ties_by_gain():
    tried, gains = dreams(0, 0, 0, 1), [0.1, 0.3, 0.2, 0.1]
    assert rewarded_dreams(tried, [1.0] * 4, cap=1, gains=gains) == [tried[1], tried[3]]
    assert rewarded_dreams(tried, [1.0] * 4, cap=2, gains=gains) == [tried[1], tried[2], tried[3]]
    assert rewarded_dreams(tried, [2.0, 1.0, 1.0, 1.0], cap=1, gains=gains)[0] is tried[0]
    assert rewarded_dreams(tried, [1.0] * 4, cap=1, gains=[0.1] * 4)[0] is tried[0]


def policy_gradient(tried, rewards, estimator):
    document = Document("a", "Kettles", "Kettles whistle.")
    choices = {"length": 8} if estimator == "dr_grpo" else {}
    return policy_gradient_exchanges(
        tried,
        rewards,
        [document] * 3,
        Prompts(byte_tokenizer()),
        read_templates(),
        surrogate(estimator, **choices),
    )


def test_advantages_compare_dreams_of_one_document():
    # Document 1 has one dream; those of document 2 have equal rewards.
    tried, rewards = dreams(0, 0, 1, 2, 2), [1.0, 0.0, 1.0, 1.0, 1.0]
    for estimator, unit in (("dr_grpo", 0.5), ("rloo", 1.0), ("grpo", 0.5 / (0.5**0.5 + 1e-4))):
        first, second = policy_gradient(tried, rewards, estimator)
        assert (first.completion, second.completion) == (tried[0].tokens, tried[1].tokens)
        np.testing.assert_allclose([first.advantage, second.advantage], [unit, -unit], rtol=1e-5)
        assert first.on_policy and first.rewarded and not first.supervised
        np.testing.assert_array_equal(first.log_probs, tried[0].log_probs)
        assert len(first.student) > len(first.teacher)  # the student sees the document, too


def test_batch_baselines_use_every_dream():
    tried, rewards = dreams(0, 1, 2), [1.0, 0.0, 1.0]
    assert [e.advantage for e in policy_gradient(tried, rewards, "ppo")] == rewards
    result = [e.advantage for e in policy_gradient(tried, rewards, "reinforce")]
    np.testing.assert_allclose(result, [1 / 3, -2 / 3, 1 / 3], rtol=1e-5)


@pytest.mark.parametrize("estimator", [*ALGORITHMS])
def test_equal_rewards_give_no_policy_gradient(estimator):
    for reward in (0.0, 1.0):
        assert policy_gradient(dreams(0, 0, 1), [reward] * 3, estimator) == []
    assert policy_gradient(dreams(0), [1.0], estimator) == policy_gradient([], [], estimator) == []


def test_ppo_advantage_is_equal_for_all_tokens_of_a_dream():
    """By hand: rewards 1, 0, 0 over 96 tokens each, whitened with n - 1."""
    config = settings.default()
    config.dreaming.estimator = "ppo"
    policy = settings.read(config).reinforcing.objective.surrogate
    long_dreams = [dataclasses.replace(x, tokens=(5,) * 96) for x in dreams(0, 0, 1)]
    rollouts = [
        dataclasses.replace(e, old_log_probs=np.zeros(96, np.float32))
        for e in policy_gradient(long_dreams, [1.0, 0.0, 0.0], "ppo")
    ]
    values = apply_value_head(init_value_head(4), np.ones((3, 96, 4)))
    result = np.stack(
        [e.advantage for e in with_token_advantages(policy, rollouts, list(values), 96)]
    )
    deviation = np.std(np.repeat([1.0, 0.0, 0.0], 96), ddof=1)
    np.testing.assert_allclose(result[0], 2 / 3 / deviation, rtol=1e-5)
    np.testing.assert_allclose(result[1:], -1 / 3 / deviation, rtol=1e-5)


def test_supervised_exchanges_without_writing():
    document = Document("a", "Kettles", "Kettles whistle.")
    [recall] = supervised_exchanges(
        dreams(0), [document], Prompts(byte_tokenizer()), read_templates(), writes=False
    )
    assert recall.kind == "dream" and recall.supervised


def test_trial_sequences_are_dream_or_lines_and_passage():
    prompts = Prompts(byte_tokenizer())
    document = Document("a", "Kettles", "Kettles whistle.")
    dream = Dream(0, "paraphrase", (5, 6, 7), "They whistle.\n\n Loudly.")
    request, passage = prompts.tell_about(document), prompts.reply("Kettles whistle.")
    assert trial_sequences(dream, document, prompts, False) == [
        (request, (5, 6, 7)),
        (request, passage),
    ]
    lines = [prompts.reply(line) for line in ("They whistle.", " Loudly.")]
    want = [(request, reply) for reply in (*lines, passage)]
    assert trial_sequences(dream, document, prompts, True) == want


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"estimator": "trpo"}, r"dreaming\.estimator='trpo'; choose from rest_em, group"),
        ({"restart": "birth"}, r"dreaming\.restart='birth'; choose from previous, base"),
        ({"restart": "base", "estimator": "ppo"}, r"dreaming\.restart='base'.*'ppo'.*'rest_em'"),
        ({"max_per_document": -1}, r"dreaming\.max_per_document=-1"),
        ({"estimator": "grpo", "alpha": 1.0}, r"dreaming\.alpha=1\.0.*'rest_em'"),
        ({"estimator": "grpo", "batch_size": 0}, r"dreaming\.batch_size=0"),
        (
            {"estimator": "ppo", "importance_cap": 0.0},
            r"importance_cap=0\.0; .*above 0.*2 is usual",
        ),
    ],
)
def test_invalid_learning_settings_raise(changes, words):
    config = settings.default()
    config.dreaming.update(changes)
    with pytest.raises(ValueError, match=words):
        settings.read(config)


def test_restart_from_base_adds_updates_of_the_night():
    config = settings.default()
    config.dreaming.restart = "base"
    learning, night = settings.read(config).reinforcing, settings.read(config).seeding
    assert learning.steps == night.steps + config.dreaming.steps
    assert (learning.learning_rate, learning.warmup) == (night.learning_rate, night.warmup)
    config.memory.on_full = "reuse"
    with pytest.raises(ValueError, match=r"dreaming\.restart='base'.*memory\.on_full='reuse'"):
        settings.read(config)


@pytest.mark.parametrize("batch, rows", [(0, {0: 1, 2: 1}), (1, {0: 3, 2: 2})])
def test_passage_sequences_have_as_many_updates_as_longest_dream(batch, rows):
    prompts = Prompts(byte_tokenizer())
    documents = [Document(str(i), f"Kettle {i}", f"Kettle {i} whistles.") for i in range(3)]
    tried = [Dream(d, "paraphrase", (5, 6), text) for d, text in ((2, "a"), (0, "b"), (0, "c\nd"))]
    learnt = [trial_sequences(x, documents[x.document], prompts, True) for x in tried]
    trial = TrialConfig(batch_size=batch, split_lines=True)
    result = passage_sequences(tried, learnt, documents, prompts, trial)
    assert list(result) == [0, 2]
    for index, count in rows.items():
        document = documents[index]
        passage = (prompts.tell_about(document), prompts.reply(document.text))
        assert result[index] == [passage] * count
