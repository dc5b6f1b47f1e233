"""What data and model alone decide of a day and its night: how many sequences there are and how
long, in tokens.
"""

import dataclasses
import math
from collections.abc import Sequence

from sleep_jax.config import RunConfig
from sleep_jax.data.batches import pack
from sleep_jax.data.documents import read_rehearsal_topics
from sleep_jax.seeding.mixture import EPOCHS
from sleep_jax.seeding.sequences import REHEARSED, BatchShape, Exchange

# What is assumed before a run.
SENTENCE = 24  # tokens of a sentence, and of a line of a dream
BEGINNING = 2  # tokens of a free text: the first word, after the start of a text
PROMPT = 128  # tokens of a prompt without a document
QUESTIONS = 4  # about each document, in the evaluation
ANCHORS = (8, 256)  # (texts, tokens) of an anchor set

Lengths = tuple[int, int]  # tokens that are given, and of what is scored after them


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of one day and its night; lengths are in tokens.

    Attributes:
      contexts: each document of the day as a context.
      stream: all of the day, as it stands in the stream.
      screen: each sentence that is screened, after what makes it likely, twice.
      ask: each prompt for a question about a sentence.
      answer: each question that the model asked itself, with the document in context.
      rehearse: each general prompt.
      free_texts: the beginning of each free text.
      ask_again: each prompt for a question about a reply to these.
      read_again: each such question, with its reply in view.
      earlier: each question of an earlier day that is asked again.
      suggest: each prompt for a strategy to study a sentence.
      vary: each prompt for a variant, of one turn.
      exchanges: what the night learns from; only lengths and kinds count.
      probe: what its divergence is measured on.
      pages: each document that is dreamt about, as a context.
      write: each prompt for a dream, by the form of its template.
      dreams: each dream that may be selected: (page, lengths as it is learnt).
      targets: each page as it is learnt.
      kept: the page of each dream that is tried.
      trials: the sequences that each trial learns from: first of each dream that is tried, then of
        passages alone.
      passages: the pages of these passages.
      items: the questions that reward dreams about each page, with their answers.
      lessons: what is learnt of dreams, beside `exchanges`.
      written: dreams as a policy gradient learns from them.
      learn_updates: updates until every lesson was drawn as often as it should be.
      questions: each question of the evaluation: (without context, with it).
      anchors: (texts, tokens) of each anchor set; the first is that of the gate.
      own_question: the longest of the model's own questions that are asked again: (without context,
        with it).
    """

    contexts: tuple[int, ...]
    stream: int
    screen: tuple[int, ...]
    ask: tuple[int, ...]
    answer: tuple[int, ...]
    rehearse: tuple[int, ...]
    free_texts: tuple[int, ...]
    ask_again: tuple[int, ...]
    read_again: tuple[int, ...]
    earlier: tuple[int, ...]
    suggest: tuple[int, ...]
    vary: tuple[int, ...]
    exchanges: tuple[Exchange, ...]
    probe: tuple[Exchange, ...]
    pages: tuple[int, ...]
    write: dict[str, tuple[int, ...]]
    dreams: tuple[tuple[int, Lengths], ...]
    targets: tuple[Lengths, ...]
    kept: tuple[int, ...]
    trials: tuple[tuple[Lengths, ...], ...]
    passages: tuple[int, ...]
    items: tuple[tuple[Lengths, ...], ...]
    lessons: tuple[Exchange, ...]
    written: tuple[Exchange, ...]
    learn_updates: int
    questions: tuple[Lengths, ...]
    anchors: tuple[tuple[int, int], ...]
    own_question: Lengths


def expected_sizes(settings: RunConfig, documents: int, context: int, sentences: int) -> Sizes:
    """What a run may be expected to have, before it begins: all is as long as it may be.

    Args:
      settings: of the run.
      documents: of its largest day.
      context: tokens of the longest one as a context.
      sentences: of the day.
    """
    study, dreaming, page = settings.study, settings.dreaming, settings.data.chunk_tokens
    topics = len(read_rehearsal_topics())
    readings = topics * study.rehearsals * study.readings
    pages, stands_for = range(documents), _Lengths(settings.seeding.shape)
    held_out = [i for i in pages for _ in range(dreaming.held_out)]
    probe = [stands_for(i, study.max_answer_tokens, "answer") for i in held_out]
    trial, passage = _trial(settings)
    written, kept = _dreams(settings, documents)
    is_compared = dreaming.reward.baseline == "passage"
    lessons, policy = _lessons(settings, kept, context, stands_for)
    forms = {
        t.form: PROMPT if t.needs_context else PROMPT + page for t in dreaming.writing.templates
    }
    return Sizes(
        contexts=(context,) * documents,
        stream=documents * page,
        screen=(PROMPT + SENTENCE,) * 2 * sentences * study.is_screened,
        ask=(PROMPT,) * sentences,
        answer=(PROMPT,) * sentences * study.questions,
        rehearse=(PROMPT,) * topics,
        free_texts=(BEGINNING,) * study.free_texts,
        ask_again=(PROMPT,) * readings,
        read_again=(PROMPT + study.rehearsal_tokens,) * readings,
        earlier=(PROMPT,) * _earlier_questions(settings),
        suggest=(PROMPT,) * sentences * (bool(study.multiple) and "strategy" in study.variants),
        vary=(PROMPT,) * documents * len(study.variants) * bool(study.multiple),
        exchanges=tuple(_exchanges(settings, documents, sentences, stands_for)),
        probe=tuple(probe or (stands_for(i, page, "recite") for i in pages)),
        pages=(context,) * documents,
        write={
            form: (longest,) * documents * sum(t.form == form for t in dreaming.writing.templates)
            for form, longest in forms.items()
        },
        dreams=tuple((i, (PROMPT, dreaming.writing.max_new_tokens)) for i in written),
        targets=((PROMPT, page),) * documents,
        kept=tuple(kept),
        trials=(trial,) * len(kept) + (passage,) * (documents if is_compared else 0),
        passages=tuple(pages) if is_compared else (),
        items=(((PROMPT, study.max_answer_tokens),) * dreaming.held_out,) * documents,
        lessons=tuple(lessons),
        written=tuple(policy),
        learn_updates=_updates_to_learn(settings, len(kept), documents),
        questions=((PROMPT, PROMPT),) * QUESTIONS * documents,
        anchors=(ANCHORS, ANCHORS),
        own_question=(PROMPT, PROMPT),
    )


@dataclasses.dataclass(frozen=True)
class _Lengths:
    """Makes exchanges that stand for others: of their lengths, and no longer than a row."""

    shape: BatchShape

    def __call__(
        self, document: int | None, completion: int, kind: str, prompt: int = PROMPT, **facts
    ) -> Exchange:
        completion = min(completion, self.shape.max_target_length)
        student = max(1, min(prompt, self.shape.max_length - completion + 1))
        return Exchange(document, (0,) * student, (0,) * PROMPT, (0,) * completion, kind, **facts)


def _exchanges(
    settings: RunConfig, documents: int, sentences: int, stands_for: _Lengths
) -> list[Exchange]:
    """What a night learns from if every question is kept and every reply as long as it may be."""
    study, page = settings.study, settings.data.chunk_tokens
    pages = [i * documents // sentences for i in range(sentences)]
    answered = [i for i in pages for _ in range(study.questions)]
    recited = [i for i in range(documents) for _ in range(study.recitations)]
    completed = [i for i in pages for _ in range(study.completions)]
    each = math.ceil(study.multiple * page / study.max_variant_tokens)
    varied = [
        (i, study.variants[n % len(study.variants)]) for i in range(documents) for n in range(each)
    ]
    longest = study.rehearsal_lengths(len(read_rehearsal_topics())) * study.rehearsals
    again = len(longest) * study.readings
    in_view = PROMPT + study.rehearsal_tokens
    return [
        *(stands_for(i, page, "recite") for i in recited),
        *(stands_for(i, SENTENCE, "complete") for i in completed),
        *(stands_for(i, SENTENCE, "quote") for i in answered),
        *(stands_for(i, study.max_answer_tokens, "answer") for i in answered),
        *(stands_for(i, study.max_variant_tokens, kind) for i, kind in varied),
        *(stands_for(None, tokens, REHEARSED) for tokens in longest),
        *[stands_for(None, study.rehearsal_tokens, REHEARSED, BEGINNING)] * study.free_texts,
        *[stands_for(None, study.max_chat_tokens, REHEARSED, in_view)] * again,
        *[stands_for(None, study.max_chat_tokens, "earlier")] * _earlier_questions(settings),
    ]


def _earlier_questions(settings: RunConfig) -> int:
    """How many a night asks again; the first has none."""
    return settings.study.earlier_questions if settings.data.episodes > 1 else 0


def _dreams(settings: RunConfig, documents: int) -> tuple[list[int], list[int]]:
    """The page of each dream that is written, and of those that are kept."""
    selection, writing = settings.dreaming.selection, settings.dreaming.writing
    each = len(writing.templates) * writing.num_generations
    kept = min(selection.keep_top + selection.keep_random, each)
    return tuple([i for i in range(documents) for _ in range(n)] for n in (each, kept))


def _trial(settings: RunConfig) -> tuple[tuple[Lengths, ...], tuple[Lengths, ...]]:
    """The sequences of a trial: the lines of a dream, or all of it, and its passage; and those of a
    passage alone.
    """
    new, trial = settings.dreaming.writing.max_new_tokens, settings.dreaming.trial
    lines = math.ceil(new / SENTENCE) if trial.split_lines else 1
    passage = (PROMPT, settings.data.chunk_tokens)
    dream = ((PROMPT, math.ceil(new / lines)),) * lines + (passage,)
    return dream, (passage,) * (len(dream) if trial.batch_size else 1)


def _lessons(
    settings: RunConfig, kept: Sequence[int], context: int, stands_for: _Lengths
) -> tuple[list[Exchange], list[Exchange]]:
    """What dreams teach if all of them are rewarded, and what a policy gradient learns from."""
    writing, learning = settings.dreaming.writing, settings.dreaming.learning
    is_supervised = learning.estimator == "rest_em"
    before, longest = PROMPT + context, writing.max_dream_tokens
    know = [stands_for(i, writing.max_new_tokens, "dream", supervised=True) for i in kept]
    if is_supervised:
        know += [stands_for(i, longest, "write", before, supervised=True) for i in kept]
        return know, []
    return know, [stands_for(i, longest, "write", before, on_policy=True) for i in kept]


def _updates_to_learn(settings: RunConfig, kept: int, documents: int) -> int:
    """Updates until every dream that was tried, if all are rewarded, was drawn as often as
    `mixture.updates_to_draw` has it: in turn with what was studied, by which a row is filled as
    well.
    """
    learning, shape = settings.dreaming.learning, settings.seeding.shape
    dreams = min(kept, learning.max_per_document * documents) if learning.max_per_document else kept
    dreams *= EPOCHS * (1 + (learning.estimator == "rest_em"))  # to write it, and to know it
    lengths = settings.dreaming.writing.max_new_tokens, settings.data.chunk_tokens
    sized = [(min(PROMPT + n, shape.max_length), min(n, shape.max_target_length)) for n in lengths]
    rows = len(pack(sized * dreams, (shape.max_length, shape.max_target_length)))
    return math.ceil(rows / shape.batch_size)
