"""Variants: what the teacher of a night writes about a document in other ways, until it is a
multiple of the document.

    paraphrase   the document in other words
    implication  facts that follow from it
    summary      the gist of it
    strategy     what comes of a way to study it that the model suggested for one of its
                 sentences (`study.strategies`)

Instructions and rules of rejection are those of dreams (`dreaming.templates`,
`dreaming.rejection`). Before, a text loses its sentences with names or numbers that do not occur in
the document, questions which only measure, and a last sentence that was cut off. A variant is
learnt as the reply to its instruction closed book, where the title stands for the document.
"""

import collections
import dataclasses
import re
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
from sleep_jax.study.strategies import strategy_requests, suggest_strategies
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

    def exchange(self, prompts: Prompts, text: str) -> Exchange:
        """A text as the reply to it."""
        return Exchange(
            document=self.document,
            student=prompts.without_context(self.closed_book),
            teacher=prompts.with_context(self.open_book),
            completion=prompts.reply(text),
            kind=self.kind,
        )


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
      excluded: questions that only measure; they are cut out of texts.
      rng: PRNG key.
      draw: as for `questions.write_questions`.

    Returns:
      (exchanges, dropped): of the texts that are kept, and the numbers of the others by reason
      (`dreaming.rejection.REASONS`).
    """
    tokens = [len(tokenizer.encode(d.text)) for d in documents]
    room = [study.multiple * n for n in tokens]
    if not any(room):
        return [], {}
    strategies: list[list[str]] = [[] for _ in documents]
    if "strategy" in study.variants:
        key = jax.random.fold_in(rng, 0)
        strategies = suggest_strategies(cfg, variables, tokenizer, documents, study, key, draw)
    prompts, asked = Prompts(tokenizer), {canonical(question) for question in excluded}
    pages = [f"{d.title} {d.text}" for d in documents]
    texts: list[list[str]] = [[] for _ in documents]
    exchanges, dropped = [], collections.Counter()
    for turn in range(study.variant_turns(max(tokens))):
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
            i, text = request.document, tokenizer.reply_text(completion.tokens)
            if room[i] <= 0:
                continue
            text = sentences_to_keep(text, completion.finished, pages[i], asked, study.is_grounded)
            if reason := dream_rejection_reason(text, pages[i], texts[i], rejection):
                dropped[reason] += 1
                continue
            texts[i].append(text)
            exchanges.append(request.exchange(prompts, text))
            room[i] -= len(exchanges[-1].completion)
    return exchanges, dict(dropped)


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


def sampled_tokens(study: StudyConfig, documents: Sequence[int], topics: int) -> int:
    """Most tokens that are sampled for variants.

    Args:
      study: the settings.
      documents: tokens of each document of a day.
      topics: sentences that they have.
    """
    if not study.multiple:
        return 0
    suggested = topics * study.max_question_tokens * ("strategy" in study.variants)
    texts = len(documents) * len(study.variants) * study.variant_turns(max(documents))
    return suggested + texts * (study.max_variant_tokens + study.thought_tokens)


def writing(study: StudyConfig, eos_ids: tuple[int, ...]) -> SamplingConfig:
    """How variants are sampled; `eos_ids` end one."""
    longest = study.max_variant_tokens + study.thought_tokens
    return SamplingConfig(longest, eos_ids, temperature=study.variant_temperature)


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


def sentences_to_keep(
    text: str, is_finished: bool, page: str, asked: Collection[str], is_grounded: bool = True
) -> str:
    """The text without sentences that are not to be learnt, in the lines it had.

    Args:
      text: by the model.
      is_finished: it was not cut off; else its last sentence is left out.
      page: title and text of the document.
      asked: canonical questions that only measure, which are left out.
      is_grounded: whether sentences with names or numbers that are not on the page are left out.
    """
    kept, units_of = [], [(line, sentences(line)) for line in text.splitlines()]
    left = sum(len(units) for _, units in units_of) - (not is_finished)
    for line, units in units_of:
        for unit in units:
            left -= 1
            is_invented = is_grounded and ungrounded(unit, page)
            if left < 0 or is_invented or canonical(unit) in asked:
                line = line.replace(unit, "", 1)
        if any(map(str.isalnum, line)):
            kept.append(re.sub(r"[ \t]+", " ", line).strip())
    return "\n".join(kept)
