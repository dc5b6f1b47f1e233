"""What a run needs at a stretch, counted by hand, most of it on one token a character."""

import collections
import functools
import re
import warnings

import pytest
from families import qwen3

from configs import seeding_8b, sleep_tiny
from sleep_jax.config import read
from sleep_jax.data.documents import Document, QuestionAnswer
from sleep_jax.dreaming.reinforce import writer_prompt
from sleep_jax.interop.prompts import RECITE_REQUEST, Prompts, answer_request
from sleep_jax.lengths import check_lengths, check_positions, longest_sequence, measure
from sleep_jax.models.decoder_config import RopeScaling

SCALED = RopeScaling(8.0, 1.0, 4.0, 8192)
DOCUMENT = Document("lamp", "The Lamp", "It is out.", (QuestionAnswer("Why?", "Nobody knows."),))


@pytest.fixture
def config():
    c = sleep_tiny.get_config()
    c.dreaming.steps = 0
    return c


@pytest.fixture
def longest(config, tokenizer):
    """Of a document by the config as it is now."""

    def longest_of(document=DOCUMENT):
        settings = read(config)
        [lengths] = measure(settings, Prompts(tokenizer), [document])
        return longest_sequence(settings, lengths)

    return longest_of


def test_longest_sequence_is_the_longest_request_and_its_reply(config, tokenizer, longest):
    prompts = Prompts(tokenizer)
    context = len(prompts.context(DOCUMENT))
    self_asked = (
        context + len(prompts.with_context(answer_request(""))) + 8 + 8
    )  # a question and its answer
    assert longest() == (self_asked, "lower study.max_answer_tokens or data.chunk_tokens")
    config.evaluation.max_new_tokens = 500
    asked = context + len(prompts.with_context(answer_request("Why?"))) + 500
    assert longest() == (asked, "lower evaluation.max_new_tokens or data.chunk_tokens")
    config.model.thinking, config.model.thought_tokens = True, 100
    remedy = "lower model.thought_tokens, evaluation.max_new_tokens or data.chunk_tokens"
    assert longest() == (asked + 100, remedy)
    config.model.thinking = False
    config.dreaming.steps, config.dreaming.max_new_tokens = 1, 900
    template = read(config).dreaming.writing.templates[0]
    writer = len(writer_prompt(DOCUMENT, prompts, template))
    tokens, remedy = longest()
    assert tokens >= writer + 900
    assert re.match(
        r"lower dreaming\.max_new_tokens or data\.chunk_tokens, or leave .* out of dreaming\.inst",
        remedy,
    )
    long = Document("page", "A Page", "words " * 200)
    recited = len(
        prompts.context(long) + prompts.with_context(RECITE_REQUEST) + prompts.reply(long.text)
    )
    config.dreaming.steps, config.evaluation.max_new_tokens = 0, 8
    assert longest(long) == (recited, "lower data.chunk_tokens")


def test_longest_sequence_counts_an_answer_in_view_and_variants(config, tokenizer, longest):
    prompts = Prompts(tokenizer)
    context = len(prompts.context(DOCUMENT))
    config.study.answer_in_view = True
    shown = prompts.with_context(answer_request("", " "))
    assert longest()[0] == context + len(shown) + 8 + 8 + 8
    config.study.multiple, config.study.max_variant_tokens = 1, 280
    config.study.variants = ("summary",)
    request = prompts.with_context("Summarise the text above in a few sentences.")
    remedy = "lower study.max_variant_tokens or data.chunk_tokens"
    assert longest() == (context + len(request) + 280, remedy)


def test_check_lengths_refuses_a_variant_that_fits_no_row(config, tokenizer):
    config.study.multiple, config.study.max_variant_tokens = 1, 288
    document = Document("lamp", "The Lamp " * 20, "It is out.")
    with pytest.raises(ValueError, match=r"study\.max_variant_tokens=288: a variant of 'The Lamp"):
        check_lengths(config, Prompts(tokenizer), [document])


def test_measure_encodes_each_document_once(config, tokenizer):
    encoded = collections.Counter()

    class Counted(Prompts):
        def _encode(self, pieces):
            encoded["".join(piece.text for piece in pieces).count("out.")] += 1
            return super()._encode(pieces)

        def reply(self, text):
            encoded[text.count("out.")] += 1
            return super().reply(text)

    config.dreaming.steps = 1
    config.dreaming.instructions = ("facts", "paraphrase")
    measure(read(config), Counted(tokenizer), [DOCUMENT] * 3)
    assert encoded[1] == 2 * 3  # as what is read, and as a reply


def test_check_lengths_refuses_a_dream_that_fits_no_row(tokenizer):
    config = sleep_tiny.get_config()
    check = functools.partial(check_lengths, config, Prompts(tokenizer))
    short = [Document("a", "Lamps", "A lamp is red.")]
    check(short)
    config.data.chunk_tokens = 1000
    check(short)  # no day comes on which something is recollected
    config.data.episodes = 2
    pattern = (
        r"dreaming\.max_new_tokens=16: .*'Lamps'.* 'paraphrase' needs rows of .* "
        r"seeding\.max_length=384"
    )
    with pytest.raises(ValueError, match=pattern):
        check(short)
    config.dreaming.curriculum.source = "text"
    check(short)
    config.dreaming.max_new_tokens = 320
    with pytest.raises(
        ValueError, match=r"320 of them scored.*seeding\.max_target_length=288; lower it"
    ):
        check(short)
    config.dreaming.steps = 0
    check(short)


def test_check_lengths_names_thought_tokens_of_a_long_dream(config, tokenizer):
    config.dreaming.steps = 1
    config.model.thinking, config.model.thought_tokens = True, 275
    pattern = (
        r"dreaming\.max_new_tokens=16, model\.thought_tokens=275: .* 291 of them scored.*"
        r"seeding\.max_target_length=288; lower one of them or data\.chunk_tokens, or raise those"
    )
    prompts = Prompts(tokenizer)
    with pytest.raises(ValueError, match=pattern):
        check_lengths(config, prompts, [DOCUMENT])
    config.dreaming.instructions = ("self-qa",)
    config.dreaming.is_plain = True  # a text that is continued has no thought
    check_lengths(config, prompts, [DOCUMENT])


def test_seeding_8b_with_its_longer_rows_fits_thoughts():
    tokenizer = qwen3(thinking=True)
    config = seeding_8b.get_config()
    config.model.thinking = True
    text = ""
    while len(tokenizer.encode(f"{text} night")) <= config.data.chunk_tokens:
        text += " night"
    document = Document("page", "A Page of the RunState", text)
    with pytest.raises(ValueError, match=r"model\.thought_tokens=1024.*seeding\.max_length=2048"):
        check_lengths(config, Prompts(tokenizer), [document])
    config.seeding.max_length = 3328
    check_lengths(config, Prompts(tokenizer), [document])


def test_check_positions_refuses_or_with_rope_scaling_warns(config, cfg, tokenizer):
    lengths = check_lengths(config, Prompts(tokenizer), [DOCUMENT])
    needed, _ = longest_sequence(read(config), *lengths)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_positions(config, cfg.replace(max_position=needed), lengths)
    short = cfg.replace(max_position=needed - 1)
    pattern = rf"up to {needed - 1} tokens .*, but {needed} are needed for document 'The Lamp'"
    with pytest.raises(
        ValueError, match=rf"{pattern}.*lower study\.max_answer_tokens or data\.chunk_tokens"
    ):
        check_positions(config, short, lengths)
    with pytest.warns(UserWarning, match=pattern):
        check_positions(config, short.replace(rope_scaling=SCALED), lengths)


def test_check_positions_refuses_a_long_wake_context(config, cfg, tokenizer):
    lengths = check_lengths(config, Prompts(tokenizer), [DOCUMENT])
    long = cfg.replace(max_position=4096)
    config.wake.context = 5000
    check_positions(config, long, lengths)  # nothing learns by day
    config.memory.learning_rates = (0.1,)
    with pytest.raises(ValueError, match=r"5000 are needed for the context .*wake\.context"):
        check_positions(config, long, lengths)


def test_check_positions_names_a_further_teacher(config, cfg, tokenizer):
    lengths = check_lengths(config, Prompts(tokenizer), [DOCUMENT])
    short = cfg.replace(max_position=20)
    with pytest.raises(ValueError, match=r"^seeding\.teachers\[1\]='small' was trained on .* 20 "):
        check_positions(config, short, lengths, "seeding.teachers[1]='small'")
