"""Writing, and what a rewarded dream teaches."""

import numpy as np
import pytest

from sleep_jax.data.documents import Document
from sleep_jax.dreaming.reinforce import lessons
from sleep_jax.dreaming.write import Dream, degenerates, write
from sleep_jax.interop.tiny import byte_tokenizer
from sleep_jax.seeding.prompts import Prompts


def test_loops_and_fragments_are_no_dreams():
    assert degenerates("")
    assert degenerates("The lamp.")
    assert degenerates("the lamp burns oil and " * 8)
    assert not degenerates("The lamp burns walnut oil and the tower is made of granite blocks.")


def test_a_rewarded_dream_teaches_to_write_and_to_know():
    tokenizer = byte_tokenizer()
    prompts = Prompts(tokenizer)
    document = Document("a", "Kettles", "Kettles whistle.")
    dream = Dream(0, "rewrite", (5, 6, 7), "abc")
    writing, knowing = lessons([dream], [document], prompts)
    assert writing.completion == knowing.completion == dream.tokens
    assert writing.student == prompts.context(document) + writing.teacher
    assert "whistle" in tokenizer.decode(writing.student)
    assert "whistle" not in tokenizer.decode(knowing.student)
    assert knowing.teacher == writing.teacher
    assert np.isfinite(knowing.advantage)


def test_an_unknown_instruction_is_named():
    with pytest.raises(ValueError, match="sonnets"):
        write(
            None,
            None,
            byte_tokenizer(),
            [],
            None,
            instructions=("sonnets",),
            count=1,
            temperature=1.0,
            max_new_tokens=1,
            rng=None,
        )
