"""Strategies: ways to study one document, which the model suggests with the document in view and
then follows (Active Reading: Lin et al. 2025, arXiv 2508.09494).
"""

import re
from collections.abc import Sequence

from sleep_jax.data.answers import canonical, words
from sleep_jax.data.documents import Document
from sleep_jax.data.sentences import sentences
from sleep_jax.interop.prompts import FOLLOW_REQUEST, SUGGEST_REQUEST, Prompts
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.rewards.agreement import ungrounded
from sleep_jax.sampling.generate import Draw, generate
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.study.study_config import StudyConfig

STRATEGIES = 8  # suggestions that are drawn for a document
MIN_WORDS = 3  # of a suggestion
_LIST_NUMBER = re.compile(r"\A\d{1,2}[.)]\s+")


def suggest_strategies(
    cfg: DecoderConfig,
    variables,
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    context,
    study: StudyConfig,
    rng,
    draw: Draw | None = None,
) -> list[list[str]]:
    """Lets the teacher suggest how to study each document.

    Args:
      cfg, variables, tokenizer: the teacher.
      documents: that it has read.
      context: its KV cache with a row for each document.
      study: the settings; a suggestion is as long as a question at most.
      rng: PRNG key.
      draw: as for `questions.write_questions`.

    Returns:
      For each document distinct suggestions, in the order they were drawn; none may be left.
    """
    prompts = Prompts(tokenizer)
    groups = (draw or generate)(
        cfg,
        suggesting(study, (*tokenizer.eos_ids, *tokenizer.line_end_ids)),
        variables,
        [prompts.with_context(SUGGEST_REQUEST)] * len(documents),
        rng,
        context=context,
        documents=[*range(len(documents))],
    )
    return [
        distinct_strategies(
            [tokenizer.reply_text(c.tokens) for c in group if c.finished],
            f"{document.title} {document.text}",
            study,
        )
        for document, group in zip(documents, groups)
    ]


def distinct_strategies(texts: Sequence[str], page: str, study: StudyConfig) -> list[str]:
    """The first sentence of each text, without a list number, where it `is_strategy`; each once."""
    suggested = {}
    for text in texts:
        strategy = _LIST_NUMBER.sub("", next(iter(sentences(text)), ""))
        if is_strategy(strategy, page, study):
            suggested.setdefault(canonical(strategy), strategy)
    return [*suggested.values()]


def is_strategy(text: str, page: str, study: StudyConfig) -> bool:
    """Whether a suggestion has a few words, none of them an invented name or number where
    `study.is_grounded`."""
    return len(words(text)) >= MIN_WORDS and not (study.is_grounded and ungrounded(text, page))


def strategy_requests(strategy: str, title: str) -> tuple[str, str]:
    """(closed_book, open_book): the requests to follow a strategy, to a student that knows the
    document by its title and to a teacher that has it in context."""
    closed_book, open_book = (
        FOLLOW_REQUEST.format(document=document, strategy=strategy)
        for document in (title, "the text above")
    )
    return closed_book, open_book


def suggesting(study: StudyConfig, eos_ids: tuple[int, ...]) -> SamplingConfig:
    """How suggestions are sampled; `eos_ids` end one."""
    return SamplingConfig(
        study.max_question_tokens,
        eos_ids,
        temperature=study.temperature,
        num_generations=STRATEGIES,
    )
