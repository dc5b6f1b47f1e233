"""Variants: what the teacher of a night writes about a document in other ways, until it is a
multiple of the document.

    paraphrase   the document in other words
    implication  facts that follow from it
    summary      the gist of it
    strategy     what comes of a way to study it that the model suggested for this document
                 (`study.strategies`)

Instructions and rules of rejection are those of dreams (`dreaming.templates`,
`dreaming.rejection`); a text with names or numbers that do not occur in the document is dropped,
too, and one that asks a question which only measures. A variant is learnt as the reply to its
instruction closed book, where the title stands for the document.
"""

import collections
import dataclasses
from collections.abc import Collection, Iterator, Sequence

import jax

from sleep_jax.data.answers import canonical
from sleep_jax.data.documents import Document
from sleep_jax.data.sentences import sentences
from sleep_jax.dreaming.rejection import RejectionConfig, dream_rejection_reason
from sleep_jax.dreaming.templates import read_templates
from sleep_jax.interop.prompts import Prompts
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.rewards.agreement import ungrounded
from sleep_jax.sampling.generate import Draw, generate
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.seeding.sequences import Exchange
from sleep_jax.study.strategies import STRATEGIES, strategy_requests, suggest_strategies
from sleep_jax.study.study_config import StudyConfig

# The template of dreams that asks for each kind but `strategy`.
TEMPLATES = {"paraphrase": "paraphrase", "implication": "facts", "summary": "summary"}


@dataclasses.dataclass(frozen=True)
class Request:
    """A way to ask for a text about a document.

    Attributes:
      document: index of the document.
      kind: one of `study_config.VARIANTS`.
      closed_book: the request to the student, in which the title stands for the document.
      open_book: the request to the teacher, which has the document in context.
    """

    document: int
    kind: str
    closed_book: str
    open_book: str


def write_variants(
    cfg: DecoderConfig,
    variables,
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    context,
    study: StudyConfig,
    rejection: RejectionConfig,
    excluded: Collection[str],
    rng,
    draw: Draw | None = None,
) -> tuple[list[Exchange], dict[str, int]]:
    """Lets the teacher write about each document until `study.multiple` of its tokens are kept, or
    it was asked `study.variant_turns` times for each kind.

    Args:
      cfg, variables, tokenizer: the teacher.
      documents: that it has read.
      context: its KV cache with a row for each document.
      study: the settings; nothing is sampled where `multiple` is 0.
      rejection: thresholds below which a text is dropped.
      excluded: questions that only measure; a text that asks one of them is dropped.
      rng: PRNG key.
      draw: as for `questions.write_questions`.

    Returns:
      (exchanges, dropped): of the texts that are kept, and the numbers of the others by reason.
    """
    room = [study.multiple * len(tokenizer.encode(d.text)) for d in documents]
    if not any(room):
        return [], {}
    strategies = [[] for _ in documents]
    if "strategy" in study.variants:
        key = jax.random.fold_in(rng, 0)
        strategies = suggest_strategies(
            cfg, variables, tokenizer, documents, context, study, key, draw
        )
    prompts, asked = Prompts(tokenizer), {canonical(question) for question in excluded}
    kept, dropped = [], collections.Counter()
    texts: list[list[str]] = [[] for _ in documents]
    for turn in range(study.variant_turns(max(len(tokenizer.encode(d.text)) for d in documents))):
        if max(room) <= 0:
            break
        requests = [*requests_of_turn(documents, study.variants, strategies, turn)]
        groups = (draw or generate)(
            cfg,
            writing(study, tokenizer.eos_ids),
            variables,
            [prompts.with_context(request.open_book) for request in requests],
            jax.random.fold_in(rng, 1 + turn),
            context=context,
            documents=[request.document for request in requests],
        )
        for request, [completion] in zip(requests, groups):
            i = request.document
            if room[i] <= 0:
                continue
            text = tokenizer.reply_text(completion.tokens)
            if reason := rejection_reason(text, documents[i], texts[i], study, rejection, asked):
                dropped[reason] += 1
                continue
            exchange = Exchange(
                document=i,
                student=prompts.without_context(request.closed_book),
                teacher=prompts.with_context(request.open_book),
                completion=prompts.reply_without_thought(completion.tokens),
                kind=request.kind,
            )
            room[i] -= len(exchange.completion)
            texts[i].append(text)
            kept.append(exchange)
    return kept, dict(dropped)


def prompt_lengths(document: Document, prompts: Prompts, study: StudyConfig) -> tuple[int, int]:
    """Most tokens of the prompts of a variant of a document, as (student's, teacher's); (0, 0)
    where `study.multiple` is 0."""
    if not study.multiple:
        return 0, 0
    requests = [*requests_of_turn([document], study.variants, [[""]], 0)]
    longest = study.max_question_tokens if "strategy" in study.variants else 0
    return (
        longest + max(len(prompts.without_context(r.closed_book)) for r in requests),
        longest + max(len(prompts.with_context(r.open_book)) for r in requests),
    )


def sampled_tokens(study: StudyConfig, documents: Sequence[int]) -> int:
    """Most tokens that are sampled for the variants of documents of these lengths."""
    suggestions = STRATEGIES * study.max_question_tokens * ("strategy" in study.variants)
    turns = study.variant_turns(max(documents))
    each = turns * len(study.variants) * (study.max_variant_tokens + study.thought_tokens)
    return len(documents) * (suggestions + each) if study.multiple else 0


def writing(study: StudyConfig, eos_ids: tuple[int, ...]) -> SamplingConfig:
    """How variants are sampled; `eos_ids` end one."""
    longest = study.max_variant_tokens + study.thought_tokens
    return SamplingConfig(longest, eos_ids, temperature=study.temperature)


def requests_of_turn(
    documents: Sequence[Document],
    kinds: Sequence[str],
    strategies: Sequence[Sequence[str]],
    turn: int,
) -> Iterator[Request]:
    """The requests of one turn: each kind of each document, in turn another one first, so that few
    texts are of different kinds.

    Args:
      documents: that are written about.
      kinds: of `study_config.VARIANTS`.
      strategies: of each document; one without any has no request of the kind `strategy`.
      turn: its number; each has the next strategy.
    """
    templates = read_templates()
    for i, document in enumerate(documents):
        first = i % len(kinds)
        for kind in (*kinds[first:], *kinds[:first]):
            if kind != "strategy":
                template = templates[TEMPLATES[kind]]
                closed_book = template.closed_book.replace("{title}", document.title)
                yield Request(i, kind, closed_book, template.prompt)
            elif strategies[i]:
                strategy = strategies[i][turn % len(strategies[i])]
                yield Request(i, kind, *strategy_requests(strategy, document.title))


def rejection_reason(
    text: str,
    document: Document,
    earlier: Sequence[str],
    study: StudyConfig,
    rejection: RejectionConfig,
    asked: Collection[str],
) -> str | None:
    """Why a text about a document is dropped; None if it is kept.

    Args:
      text: of the model.
      document: that it is about.
      earlier: texts about it that are kept.
      study: whether names and numbers have to occur in the document.
      rejection: thresholds of the rules for dreams.
      asked: canonical questions that only measure.

    Returns:
      One of `dreaming.rejection.REASONS`, `invented`, `asked` or None.
    """
    page = f"{document.title} {document.text}"
    if reason := dream_rejection_reason(text, page, earlier, rejection):
        return reason
    if study.is_grounded and ungrounded(text, page):
        return "invented"
    return "asked" if any(canonical(unit) in asked for unit in sentences(text)) else None
