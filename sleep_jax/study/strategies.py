"""Strategies: ways to study a document, which the model suggests sentence by sentence and then
follows with the document in view (Active Reading: Lin et al. 2025, arXiv 2508.09494).
"""

from collections.abc import Sequence

import jax

from sleep_jax.data.answers import canonical, content_words
from sleep_jax.data.documents import Document
from sleep_jax.data.sentences import sentences
from sleep_jax.interop.prompts import FOLLOW_REQUEST, FOLLOW_REQUEST_CLOSED_BOOK, Prompts
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.rewards.agreement import ungrounded
from sleep_jax.sampling.generate import Draw, generate
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.study.questions import is_question
from sleep_jax.study.study_config import StudyConfig


def suggest_strategies(
    cfg: DecoderConfig,
    variables,
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    study: StudyConfig,
    rng: jax.Array,
    draw: Draw | None = None,
) -> list[list[str]]:
    """Lets the teacher suggest a way to study each sentence of each document.

    Args:
      cfg, variables, tokenizer: the teacher.
      documents: to be studied.
      study: the settings; a suggestion is as long as a question at most.
      rng: PRNG key.
      draw: as for `questions.write_questions`.

    Returns:
      For each document its strategies, each once, in the order of sentences; there may be none.
    """
    prompts = Prompts(tokenizer)
    topics = [(i, s) for i, d in enumerate(documents) for s in sentences(d.text)]
    groups = (draw or generate)(
        cfg,
        suggesting(study, (*tokenizer.eos_ids, *tokenizer.line_end_ids)),
        variables,
        [prompts.strategy_prompt(s) for _, s in topics],
        rng,
    )
    strategies: list[dict[str, str]] = [{} for _ in documents]
    for (i, sentence), [completion] in zip(topics, groups):
        text = tokenizer.decode(completion.tokens).strip().partition("\n")[0].strip()
        page = f"{documents[i].title} {documents[i].text}"
        if completion.finished and is_strategy(text, sentence, page, study.is_grounded):
            strategies[i].setdefault(canonical(text), text)
    return [[*suggested.values()] for suggested in strategies]


def suggesting(study: StudyConfig, eos_ids: tuple[int, ...]) -> SamplingConfig:
    """How suggestions are sampled; `eos_ids` end one."""
    return SamplingConfig(study.max_question_tokens, eos_ids, temperature=study.variant_temperature)


def is_strategy(text: str, sentence: str, page: str, is_grounded: bool = True) -> bool:
    """Whether a text is no question and shares a content word with its sentence; with
    `is_grounded` also whether all its names and numbers are on the page."""
    is_about = not content_words(text).isdisjoint(content_words(sentence))
    return is_about and not is_question(text) and not (is_grounded and ungrounded(text, page))


def strategy_requests(strategy: str, title: str) -> tuple[str, str]:
    """(closed_book, open_book): the requests to follow a strategy, to a student that knows the
    document by its title and to a teacher that has it in context."""
    closed_book = FOLLOW_REQUEST_CLOSED_BOOK.format(title=title, strategy=strategy)
    return closed_book, FOLLOW_REQUEST.format(strategy=strategy)
