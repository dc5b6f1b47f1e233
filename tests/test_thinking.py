"""A model that thinks first: what is graded, quoted and rewarded is what follows the thought."""

import dataclasses

import jax
import numpy as np
import pytest
from families import qwen3, written

from sleep_jax.data.documents import Document
from sleep_jax.dreaming import write
from sleep_jax.dreaming.reinforce import supervised_exchanges, trial_sequences
from sleep_jax.dreaming.templates import read_templates
from sleep_jax.dreaming.write import WritingConfig
from sleep_jax.evals import adapted, recall
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.interop.prompts import Prompts
from sleep_jax.sampling.generate import Completion
from sleep_jax.seeding import rollouts as rollouts_module
from sleep_jax.seeding.imitation import ImitationConfig
from sleep_jax.seeding.rollouts import sample_rollouts
from sleep_jax.seeding.sequences import Exchange
from sleep_jax.study import questions, self_study
from sleep_jax.study.study_config import StudyConfig

DOCUMENT = Document("bridge", "The Bridge", "The bridge of Hask was built in the year 1832.")
EMPTY = "<think>\n\n</think>\n\n"


@pytest.fixture
def tokenizer():
    return qwen3(thinking=True)


@pytest.fixture
def writes(tokenizer, monkeypatch):
    """Has `generate` of a module write given texts, one group a prompt, call by call."""

    def script(module, *calls):
        remaining = list(calls)

        def generate(cfg, sampling, variables, prompts, rng, **given):
            groups = remaining.pop(0)
            assert len(groups) == len(prompts)
            return [[completion(text) for text in group] for group in groups]

        monkeypatch.setattr(module, "generate", generate)

    def completion(text):
        ids = written(tokenizer, text)
        return Completion(ids, np.zeros(len(ids), np.float32), text.endswith("<|im_end|>"))

    return script


def test_replies_are_graded_without_their_thought(tokenizer, writes):
    thought = "<think>\nIt says 1832, or 1871?\n</think>\n\n1832.<|im_end|>"
    cut = "<think>\nIt says 1832, or"
    for module in (recall, adapted):
        writes(module, [[thought], [cut]])
    asked = [(1, 2), (3,)]
    got = recall.greedy_replies(None, None, tokenizer, asked, max_new_tokens=9)
    assert got == ["1832.", ""]  # what was not said is no answer
    assert AdaptedModels(None, {}, tokenizer).replies([asked]) == [["1832.", ""]]


def test_answers_are_quoted_without_their_thought(tokenizer, writes):
    asked = ["When was the bridge built?", "Which bridge stands there?"]
    answers = ["<think>\n1871 or 1832?\n</think>\n\nIn 1832.<|im_end|>", "<think>\nThe bridge"]
    writes(questions, [asked], [[answer] for answer in answers])
    study = StudyConfig(questions=2)
    key = jax.random.key(0)
    args = (None, None, tokenizer, [DOCUMENT], None, study, set(), key)
    got, _ = questions.write_questions(*args)
    assert [q.answer for q in got] == ["In 1832.", None]  # 1871 was thought, not said
    learnt = self_study.answer(got[:1], Prompts(tokenizer))
    assert tokenizer.backend.decode(learnt[1].completion, skip_special_tokens=False) == (
        f"{EMPTY}In 1832.<|im_end|>"
    )


def test_a_dream_is_learnt_without_its_thought(tokenizer, writes):
    words = "The year of the bridge of Hask is 1832."
    raw = f"<think>\nSay it anew.\n</think>\n\n{words}<|im_end|>"
    writes(write, [[raw]], [])
    templates = read_templates()
    config = WritingConfig((templates["paraphrase"],), num_generations=1)
    key, prompts = jax.random.key(0), Prompts(tokenizer)
    [dream] = write.write_dreams(None, config, None, tokenizer, [DOCUMENT], None, key).dreams
    assert (dream.text, dream.tokens) == (words, written(tokenizer, raw))
    (_, page), _ = trial_sequences(dream, DOCUMENT, prompts, False)
    writing, knowing = supervised_exchanges([dream], [DOCUMENT], prompts, templates)
    assert page == knowing.completion == prompts.reply(words)
    assert writing.completion == dream.tokens  # to write so, it thinks so


def test_a_rollout_is_cut_and_rewarded_after_the_thought(tokenizer, writes):
    reply = Prompts(tokenizer).reply("It was built in 1832.")
    exchange = Exchange(None, (1, 2), (1, 2), reply, "answer")
    seen = {}

    def judge(candidates, references):
        seen.update(candidates=candidates, references=references)
        return np.ones(len(candidates), np.float32)

    writes(rollouts_module, [["lt in 1832.<|im_end|>", "lt in 9.<|im_end|>"]])
    config = dataclasses.replace(ImitationConfig(), num_generations=2, prefix_range=(0.0, 1.0))
    rollouts, _ = sample_rollouts(
        None, None, tokenizer, judge, config, [exchange], jax.random.key(0), width=64
    )
    empty = written(tokenizer, EMPTY)
    begun = rollouts[0].student[2:]
    assert begun[: len(empty)] == empty and len(begun) > len(empty)
    assert not any("think" in text for side in seen.values() for text in side)
