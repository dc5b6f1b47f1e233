"""What a run needs at a stretch, counted by hand on one token a character."""

import runpy
import warnings

import pytest

from sleep_jax.data.documents import Document, Question
from sleep_jax.lengths import check_positions, longest_sequence
from sleep_jax.models.config import RopeScaling
from sleep_jax.seeding.prompts import RECITE, Prompts, answer

SCALED = RopeScaling(8.0, 1.0, 4.0, 8192)
DOCUMENT = Document("lamp", "The Lamp", "It is out.", (Question("Why?", "Nobody knows."),))


@pytest.fixture
def config():
    c = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    c.dreaming.steps = 0
    return c


def test_longest_sequence_is_the_longest_request_and_its_reply(config, tokenizer):
    prompts = Prompts(tokenizer)
    context = len(prompts.context(DOCUMENT))
    own = context + len(prompts.beside(answer(""))) + 8 + 8  # a question and its answer
    assert longest_sequence(config, prompts, DOCUMENT) == own
    config.evaluation.max_new_tokens = 500
    asked = context + len(prompts.beside(answer("Why?"))) + 500
    assert longest_sequence(config, prompts, DOCUMENT) == asked
    config.model.thinking, config.model.thought_tokens = True, 100
    assert longest_sequence(config, prompts, DOCUMENT) == asked + 100
    config.model.thinking = False
    config.dreaming.steps, config.dreaming.max_new_tokens = 1, 900
    assert longest_sequence(config, prompts, DOCUMENT) > asked
    long = Document("page", "A Page", "words " * 200)
    recited = len(prompts.context(long) + prompts.beside(RECITE) + prompts.reply(long.text))
    config.dreaming.steps, config.evaluation.max_new_tokens = 0, 8
    assert longest_sequence(config, prompts, long) == recited


def test_text_beyond_the_positions_is_refused_or_warned_of(config, cfg, tokenizer):
    prompts = Prompts(tokenizer)
    needed = longest_sequence(config, prompts, DOCUMENT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_positions(config, cfg.replace(max_position=needed), prompts, [DOCUMENT])
    short = cfg.replace(max_position=needed - 1)
    told = rf"up to {needed - 1} tokens .*, but {needed} are needed for document 'The Lamp'"
    with pytest.raises(ValueError, match=rf"{told}.*lower data\.chunk_tokens"):
        check_positions(config, short, prompts, [DOCUMENT])
    with pytest.warns(UserWarning, match=told):
        check_positions(config, short.replace(rope_scaling=SCALED), prompts, [DOCUMENT])


def test_a_stream_that_sees_more_than_the_positions_is_refused(config, cfg, tokenizer):
    prompts, long = Prompts(tokenizer), cfg.replace(max_position=4096)
    config.wake.context = 5000
    check_positions(config, long, prompts, [DOCUMENT])  # nothing learns by day
    config.memory.learning_rates = (0.1,)
    with pytest.raises(ValueError, match=r"5000 are needed for what a stream .*wake\.context"):
        check_positions(config, long, prompts, [DOCUMENT])
