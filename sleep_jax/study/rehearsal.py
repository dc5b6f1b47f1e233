"""Rehearsals: what the model knew before the day, written by itself and learnt beside it, so that
the night forgets nothing else. Their teacher is the model itself, without a document.

    rehearse     replies to general prompts, alternately in a chat and as plain text to continue
    free_texts   texts that begin with a random word, for all that these prompts do not touch
                 (data-free distillation: Liu et al. 2023, arXiv 2305.17888)
    read_again   a reply put in view, as a document is, with a question about it: a model that only
                 rehearses what it can say loses the ability to read
"""

from collections.abc import Sequence

import jax
import numpy as np

from sleep_jax.data.documents import Document
from sleep_jax.data.orders import numpy_generator
from sleep_jax.data.sentences import sentences
from sleep_jax.interop.prompts import Prompts, answer_request
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.sampling.generate import Completion, Draw, generate
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.seeding.sequences import REHEARSED, Exchange
from sleep_jax.study.questions import first_line, is_about
from sleep_jax.study.study_config import StudyConfig


def rehearsal_calls(study: StudyConfig) -> list[tuple[slice, int]]:
    """(topics, longest reply in tokens) of the calls of `rehearse`: with thoughts, chats and plain
    texts are sampled separately."""
    in_chat, as_text = study.rehearsal_lengths(2)
    if in_chat == as_text:
        return [(slice(None), in_chat)]
    return [(slice(0, None, 2), in_chat), (slice(1, None, 2), as_text)]


def rehearse(
    cfg: DecoderConfig,
    variables,
    tokenizer: Tokenizer,
    topics: Sequence[str],
    study: StudyConfig,
    rng,
    draw: Draw | None = None,
) -> list[Exchange]:
    """The model's replies to general prompts, alternately in a chat and as plain text to continue.

    Their teacher is the model itself, without a document.

    Args:
      cfg, variables, tokenizer: the model.
      topics: the prompts.
      study: the settings.
      rng: PRNG key.
      draw: as for `write_questions`.
    """
    if not topics or not study.rehearsals:
        return []
    prompts = Prompts(tokenizer)
    topic_prompts = [
        prompts.plain(topic) if i % 2 else prompts.without_context(topic)
        for i, topic in enumerate(topics)
    ]
    groups: list[list[Completion]] = [[]] * len(topic_prompts)
    for call, (part, longest) in enumerate(rehearsal_calls(study)):
        key = jax.random.fold_in(rng, call) if call else rng
        sampling = SamplingConfig(
            longest,
            tokenizer.eos_ids,
            temperature=study.temperature,
            num_generations=study.rehearsals,
        )
        groups[part] = (draw or generate)(cfg, sampling, variables, topic_prompts[part], key)
    return [
        Exchange(None, prompt, prompt, c.tokens, REHEARSED)
        for prompt, group in zip(topic_prompts, groups)
        for c in group
    ]


def free_sampling(study: StudyConfig, eos_ids: tuple[int, ...]) -> SamplingConfig:
    """How free texts are sampled: as the model would have them."""
    return SamplingConfig(study.rehearsal_tokens, eos_ids, temperature=1.0)


def free_texts(
    cfg: DecoderConfig,
    variables,
    tokenizer: Tokenizer,
    study: StudyConfig,
    rng,
    draw: Draw | None = None,
) -> list[Exchange]:
    """Texts outside any chat that each begin with a word of the vocabulary, drawn at random.

    Args:
      cfg, variables, tokenizer: the model.
      study: the settings.
      rng: PRNG key.
      draw: as for `write_questions`.
    """
    words = numpy_generator(rng).choice(tokenizer.word_ids, study.free_texts)
    beginnings = [(*tokenizer.text_start, word) for word in words.tolist()]
    sampling = free_sampling(study, tokenizer.eos_ids)
    texts = (draw or generate)(cfg, sampling, variables, beginnings, jax.random.fold_in(rng, 0))
    return [
        Exchange(None, start, start, c.tokens, REHEARSED) for start, [c] in zip(beginnings, texts)
    ]


def asking(study: StudyConfig, eos_ids: tuple[int, ...]) -> SamplingConfig:
    """How questions about replies are sampled."""
    return SamplingConfig(study.max_question_tokens, eos_ids, temperature=study.temperature)


def read_again(
    cfg: DecoderConfig,
    variables,
    tokenizer: Tokenizer,
    topics: Sequence[str],
    rehearsed: Sequence[Exchange],
    study: StudyConfig,
    longest: int,
    rng,
    draw: Draw | None = None,
) -> list[Exchange]:
    """Questions about the replies of `rehearse`, each answered with its reply in view.

    Args:
      cfg, variables, tokenizer: the model.
      topics, rehearsed: what `rehearse` was given, and gave: `study.rehearsals` replies a topic.
      study: the settings.
      longest: tokens that a row holds; what is longer is left out.
      rng: PRNG key.
      draw: as for `write_questions`.
    """
    if not study.readings:
        return []
    prompts = Prompts(tokenizer)
    pages = [
        Document("rehearsal", topics[i // study.rehearsals], tokenizer.reply_text(e.completion))
        for i, e in enumerate(rehearsed)
    ]
    order = numpy_generator(rng)
    about = [
        (page, sentence)
        for page in pages
        for sentence in order.permutation(np.asarray(sentences(page.text), object))[
            : study.readings
        ]
    ]
    if not about:
        return []
    groups = (draw or generate)(
        cfg,
        asking(study, (*tokenizer.eos_ids, *tokenizer.line_end_ids)),
        variables,
        [prompts.question_prompt(sentence) for _, sentence in about],
        jax.random.fold_in(rng, 0),
    )
    asked = [
        (*prompts.context(page), *prompts.with_context(answer_request(question)))
        for (page, sentence), [c] in zip(about, groups)
        if is_about(question := first_line(tokenizer.decode(c.tokens)), sentence)
    ]
    replies = (draw or generate)(
        cfg,
        SamplingConfig(study.max_chat_tokens, tokenizer.eos_ids, temperature=0.0),
        variables,
        asked,
        jax.random.fold_in(rng, 1),
    )
    return [
        Exchange(None, prompt, prompt, c.tokens, REHEARSED)
        for prompt, [c] in zip(asked, replies)
        if len(prompt) + len(c.tokens) <= longest
    ]
