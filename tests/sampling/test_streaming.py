"""Replies drawn a few tokens a call: the same as by the sampler, with two programs."""

import jax
import numpy as np
import pytest

from sleep_jax.sampling import streaming
from sleep_jax.sampling.generate import generate
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.sampling.streaming import Reader, decoding_form, decoding_head

RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(0, 97, n).tolist() for n in (3, 70, 64)]
KEY = jax.random.key(1)


@pytest.fixture
def reader(cfg, trained, monkeypatch):
    """(sampling) -> a reader of the tiny model, with little room at first."""
    monkeypatch.setattr(streaming, "SMALLEST", 256)
    head = decoding_head(cfg, trained["params"])
    return lambda sampling: Reader(*decoding_form(cfg, trained), head, sampling)


@pytest.mark.parametrize(
    "choice", [{"temperature": 0.0}, {"temperature": 0.7, "top_k": 20, "top_p": 0.9}]
)
def test_reply_is_that_of_the_sampler(cfg, trained, reader, choice):
    free = SamplingConfig(9, (), **choice)
    [[expected]] = generate(cfg, free, trained, PROMPTS[:1], KEY)
    # The sampler folds the start of its batch into the key.
    key = jax.random.fold_in(KEY, 0)
    assert tuple(reader(free).reply(PROMPTS[0], key)) == expected.tokens
    ended = SamplingConfig(9, (expected.tokens[5],), **choice)
    stop = expected.tokens.index(expected.tokens[5])
    assert tuple(reader(ended).reply(PROMPTS[0], key)) == expected.tokens[: stop + 1]


def test_reply_that_continues_what_is_in_view_equals_one_that_reads_all(reader):
    sampling = SamplingConfig(6, (), temperature=0.0)
    one, chat = reader(sampling), list(PROMPTS[0])
    for prompt in PROMPTS[1:]:
        chat += [*one.reply(chat, KEY), *prompt]
    assert tuple(one.reply(chat, KEY)) == tuple(reader(sampling).reply(chat, KEY))


def test_reply_to_another_prompt_or_after_an_interrupted_one_reads_anew(reader):
    sampling = SamplingConfig(6, (), temperature=0.0)
    expected = tuple(reader(sampling).reply(PROMPTS[1], KEY))
    one = reader(sampling)
    list(one.reply(PROMPTS[0], KEY))
    assert tuple(one.reply(PROMPTS[1], KEY)) == expected
    interrupted = one.reply([*PROMPTS[1], *expected, 5], KEY)
    next(interrupted)
    interrupted.close()
    assert tuple(one.reply(PROMPTS[1], KEY)) == expected


def test_conversation_has_two_programs_until_its_room_doubles(reader, compilations):
    jax.clear_caches()
    sampling = SamplingConfig(5, (), temperature=0.0)
    one, chat = reader(sampling), list(PROMPTS[0])
    chat += [*one.reply(chat, KEY), 7]
    first = len(compilations)
    chat += [*one.reply(chat, KEY), *PROMPTS[1]]
    assert one._room == 256 and len(compilations) == first
    chat += one.reply(chat, KEY)  # 64 + 5, 64 + 5, 128 + 5 tokens are more than 256
    doubled = len(compilations)
    assert one._room == 512 and doubled == first + 3
    list(one.reply([*chat, 9], KEY))
    list(reader(sampling).reply(PROMPTS[2], KEY))
    assert len(compilations) == doubled


def test_prompt_beyond_what_the_model_was_trained_on_is_refused(cfg, trained):
    sampling = SamplingConfig(6, ())
    short = cfg.replace(max_position=20)
    one = Reader(*decoding_form(short, trained), decoding_head(cfg, trained["params"]), sampling)
    with pytest.raises(ValueError, match="15 tokens and a reply of up to 6 are more than the 20"):
        list(one.reply([1] * 15, KEY))
