"""What a rewarded dream teaches."""

import numpy as np

from sleep_jax.data.documents import Document
from sleep_jax.dreaming.reinforce import lessons
from sleep_jax.dreaming.templates import read_templates
from sleep_jax.dreaming.write import Dream
from sleep_jax.interop.tiny import byte_tokenizer
from sleep_jax.seeding.prompts import Prompts


def test_a_rewarded_dream_teaches_to_write_and_to_know():
    tokenizer = byte_tokenizer()
    prompts = Prompts(tokenizer)
    document = Document("a", "Kettles", "Kettles whistle.")
    dream = Dream(0, "paraphrase", (5, 6, 7), "abc")
    writing, knowing = lessons([dream], [document], prompts, read_templates())
    assert writing.completion == knowing.completion == dream.tokens
    assert writing.student == prompts.context(document) + writing.teacher
    assert "whistle" in tokenizer.decode(writing.student)
    assert "whistle" not in tokenizer.decode(knowing.student)
    assert knowing.teacher == writing.teacher
    assert np.isfinite(knowing.advantage)


def test_a_template_that_holds_its_document_is_taught_without_a_context():
    tokenizer = byte_tokenizer()
    prompts = Prompts(tokenizer)
    document = Document("a", "Kettles", "Kettles whistle.")
    dream = Dream(0, "rewrite", (5, 6, 7), "abc")
    writing, knowing = lessons([dream], [document], prompts, read_templates())
    assert writing.document is knowing.document is None
    assert writing.student == writing.teacher == knowing.teacher
    assert "whistle" in tokenizer.decode(writing.teacher)
    assert "whistle" not in tokenizer.decode(knowing.student)


def test_a_recipe_teaches_to_write_alone():
    document = Document("a", "Task", "1 0 -> 0 1")
    dream = Dream(0, "recipe", (5, 6, 7), "{}", is_recipe=True)
    [writing] = lessons([dream], [document], Prompts(byte_tokenizer()), read_templates())
    assert writing.kind == "write" and writing.supervised
