"""Prompts with and without context, as text of the chat template."""

import pytest

from sleep_jax.data.documents import Document
from sleep_jax.interop.prompts import Prompts, answer_request


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer)


@pytest.fixture
def text(tokenizer):
    """Token ids as text, special tokens kept."""
    return lambda ids: tokenizer.backend.decode(list(ids), skip_special_tokens=False)


DOCUMENT = Document(id="lamp", title="The Lamp", text="It is out. Nobody knows why.")


def test_context_and_request_are_one_turn(prompts, tokenizer, text):
    turn = "The Lamp\n\nIt is out. Nobody knows why.\n\nWhy?"
    want = tokenizer.chat_text([{"role": "user", "content": turn}])
    assert text(prompts.context(DOCUMENT) + prompts.with_context("Why?")) == want
    assert want.endswith("<|im_start|>assistant\n")


def test_without_context_is_a_whole_turn(prompts, tokenizer, text):
    whole_turn = prompts.without_context("Why?")
    assert text(whole_turn) == tokenizer.chat_text([{"role": "user", "content": "Why?"}])
    assert prompts.shared_prefix + prompts.with_context("Why?") == whole_turn
    assert text(prompts.shared_prefix) == "<|im_start|>user\n"
    assert text(prompts.plain("Why?")) == "Why?"


def test_reply_ends_its_turn(prompts, tokenizer, text):
    reply = prompts.reply("Because.")
    assert text(reply) == "Because.<|im_end|>"
    assert reply[-1] == tokenizer.eos_ids[0]
    # Exactly what the model would have to write.
    messages = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because."},
    ]
    whole = tokenizer.chat_text(messages, add_generation_prompt=False)
    assert text(prompts.without_context("Why?") + reply) + "\n" == whole


def test_question_prompt_ends_with_question_cue(prompts, text):
    prompt = text(prompts.question_prompt("A lamp is out."))
    assert prompt.endswith("Sentence: A lamp is out.\nQuestion:")
    assert prompt.count("Sentence: ") == prompt.count("\nQuestion:") == 4
    assert prompt.count("?") == 3


def test_answer_request_names_the_text():
    assert answer_request("Why?") == "Using the text above, answer the question: Why?"
