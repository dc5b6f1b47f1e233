"""Self-study: what the teacher writes about what it read, and what it rehearses of what it knew.

    recite     the document itself, as a reply; its teacher has it in view and is nearly certain: a
    dense signal complete   a sentence of it, from a cue of its first words
    quote      the sentence that a question of the teacher's own is about, as the reply to it
    answer     the teacher's free reply to such a question, with the whole document in view
    rehearse   the model's own words on general prompts, so that the night keeps what was known

A question that shares no content word with its sentence, and a reply with names or numbers that its
document lacks, is dropped: small teachers invent.
"""

import dataclasses
import unicodedata
from collections.abc import Callable, Collection, Sequence

import jax
import numpy as np

from sleep_jax.data.answers import answer_words, canonical, content_words, tidy
from sleep_jax.data.documents import Document
from sleep_jax.data.languages import language
from sleep_jax.data.sentences import sentences, word_ends
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.config import DecoderConfig
from sleep_jax.rewards.agreement import ungrounded
from sleep_jax.sampling.generate import Completion, generate
from sleep_jax.sampling.sampler import COLDEST, SamplingConfig
from sleep_jax.seeding import prompts as requests
from sleep_jax.seeding.prompts import Prompts
from sleep_jax.seeding.sequences import Exchange
from sleep_jax.settings import Settings, setting

Draw = Callable[..., list[list[Completion]]]  # as `generate`


@dataclasses.dataclass(frozen=True)
class StudyConfig(Settings, section="study"):
    """How much is written.

    Raises:
      ValueError: a field has no such value.
    """

    recitations: int = setting(1, "times that each document is recited; 0: not at all", least=0)
    completions: int = setting(2, "cues per sentence, to complete it; 0: none", least=0)
    questions: int = setting(
        4, "questions drawn per sentence; repeated ones are kept once; 0: none", least=0
    )
    rehearsals: int = setting(3, "replies per general prompt; 0: none", least=0)
    temperature: float = setting(
        0.8,
        "temperature of questions and rehearsals; 0: greedy, as answers are",
        least=COLDEST,
        also=(0,),
    )
    max_question_tokens: int = setting(24, "longest question, in tokens", least=1)
    max_answer_tokens: int = setting(48, "longest answer or rehearsal, in tokens", least=1)
    is_grounded: bool = setting(True, "drop answers that invent names or numbers")


@dataclasses.dataclass(frozen=True)
class Question:
    """A question that the model wrote itself about a sentence of a document.

    Attributes:
      document: index of the document.
      sentence: what it asks about.
      question: its words.
      answer: the model's own answer with the document in view; None where that was not grounded or
        not finished.
    """

    document: int
    sentence: str
    question: str
    answer: str | None


@dataclasses.dataclass(frozen=True)
class Study:
    """What the teacher of a night wrote about the documents of its day.

    Attributes:
      held_out: questions of its own that only measure and reward.
      learnt: those that it learns from.
      rehearsed: general sequences.
    """

    held_out: tuple[Question, ...]
    learnt: tuple[Question, ...]
    rehearsed: tuple[Exchange, ...]

    @classmethod
    def of(cls, record: dict) -> "Study":
        """The study that `record` keeps as JSON."""
        return cls(
            held_out=tuple(Question(**q) for q in record["held_out"]),
            learnt=tuple(Question(**q) for q in record["learnt"]),
            rehearsed=tuple(
                Exchange(
                    None, *(tuple(e[k]) for k in ("student", "teacher", "completion")), e["kind"]
                )
                for e in record["rehearsed"]
            ),
        )

    def record(self) -> dict:
        """JSON-able."""
        return {
            "held_out": [dataclasses.asdict(q) for q in self.held_out],
            "learnt": [dataclasses.asdict(q) for q in self.learnt],
            "rehearsed": [
                {k: getattr(e, k) for k in ("student", "teacher", "completion", "kind")}
                for e in self.rehearsed
            ],
        }

    def exchanges(
        self, documents: Sequence[Document], prompts: Prompts, config: StudyConfig, seed: int
    ) -> list[Exchange]:
        """All that the night learns from: recitations, completions, answers, rehearsals."""
        rng = np.random.default_rng(seed)
        return [
            *recite(documents, prompts, config.recitations),
            *complete(documents, prompts, config.completions, rng),
            *answer(self.learnt, prompts),
            *self.rehearsed,
        ]


def hold_out(
    questions: Sequence[Question], per_document: int
) -> tuple[list[Question], list[Question]]:
    """Splits the model's own questions: those that only measure and reward, and those it learns
    from. The former are about sentences spread over their document, and about one sentence twice
    only where there are too few."""
    held = []
    for document in sorted({q.document for q in questions}):
        unlike: dict[str, Question] = {}  # of those that are spelt alike the first
        for q in questions:
            if q.document == document and q.answer and answer_words(q.answer):
                unlike.setdefault(canonical(q.question), q)
        mine = list(unlike.values())
        of: dict[str, list[Question]] = {}
        for q in mine:
            of.setdefault(q.sentence, []).append(q)
        count = min(per_document, len(of))
        spread = {(2 * i + 1) * len(of) // (2 * count) for i in range(count)}
        first = [own[0] for i, own in enumerate(of.values()) if i in spread]
        rest = [q for q in mine if q not in first]
        held += [*first, *rest[: per_document - count]]
    asked = {(q.document, canonical(q.question)) for q in held}
    return held, [q for q in questions if (q.document, canonical(q.question)) not in asked]


def from_memory(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """The same sequences with no document in view: what a night between two levels replays, whose
    teacher knows them by heart."""
    return [
        dataclasses.replace(e, document=None, teacher=e.student)
        for e in exchanges
        if e.kind != "rehearse"
    ]


def reread(pages: Sequence[Sequence[int]]) -> list[Exchange]:
    """Text that was read, as it stood in the stream."""
    return [
        Exchange(None, tuple(page[:1]), tuple(page[:1]), tuple(page[1:]), "reread")
        for page in pages
        if len(page) > 1
    ]


def recite(documents: Sequence[Document], prompts: Prompts, times: int) -> list[Exchange]:
    """Every document as a reply about its title."""
    return [
        Exchange(
            document=i,
            student=prompts.about(d),
            teacher=prompts.beside(requests.RECITE),
            completion=prompts.reply(d.text),
            kind="recite",
        )
        for i, d in enumerate(documents)
        for _ in range(times)
    ]


def complete(
    documents: Sequence[Document], prompts: Prompts, times: int, rng: np.random.Generator
) -> list[Exchange]:
    """Every sentence, asked for by a cue of two or more of its first words."""
    out = []
    for i, d in enumerate(documents):
        for sentence in sentences(d.text):
            ends = word_ends(sentence)
            # A cue has two words or more and leaves one or more.
            for _ in range(times if len(ends) >= 3 else 0):
                last = rng.integers(2, max(3, len(ends) - 1)) - 1
                cue = " ".join(sentence[: ends[last]].split())
                out.append(
                    Exchange(
                        document=i,
                        student=prompts.alone(f"Complete the sentence: {cue}"),
                        teacher=prompts.beside(f"Complete the sentence from the text: {cue}"),
                        completion=prompts.reply(sentence),
                        kind="complete",
                    )
                )
    return out


def ask(
    cfg: DecoderConfig,
    variables,
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    context,
    study: StudyConfig,
    excluded: Collection[str],
    rng,
    draw: Draw | None = None,
) -> tuple[list[Question], int]:
    """Questions that the teacher writes about each sentence, with its answers from the whole
    document.

    Args:
      cfg, variables, tokenizer: the teacher.
      documents, context: what it read, and its cache with one row a document.
      study: how much.
      excluded: test questions; one that the model happens to write itself is left out, whatever
        its case, articles and punctuation.
      rng: PRNG key.
      draw: in place of `generate`; it may know what was drawn before.

    Returns:
      (questions, drawn): the distinct questions that are about their sentence, and how many were
      drawn for them.
    """
    prompts = Prompts(tokenizer)
    line_ends = {tokenizer.encode(end)[-1] for end in ("\n", "\n\n")}
    about = [(i, s) for i, d in enumerate(documents) for s in sentences(d.text)]
    drawn = (draw or generate)(
        cfg,
        SamplingConfig(
            max_new_tokens=study.max_question_tokens,
            eos_ids=(*tokenizer.eos_ids, *line_ends),
            temperature=study.temperature,
            group=study.questions,
        ),
        variables,
        [prompts.question_about(s) for _, s in about],
        jax.random.fold_in(rng, 0),
    )
    pages = [f"{d.title} {d.text}" for d in documents]
    tested = set(map(canonical, excluded))
    written = {
        (i, text): sentence
        for (i, sentence), group in zip(about, drawn)
        for text in (tokenizer.decode(c.tokens).strip() for c in group)
        if is_about(text, sentence)
        and canonical(text) not in tested
        and not (study.is_grounded and ungrounded(text, pages[i]))
    }
    answers = (draw or generate)(
        cfg,
        SamplingConfig(study.max_answer_tokens, tokenizer.eos_ids, temperature=0.0),
        variables,
        [prompts.beside(requests.answer(q)) for _, q in written],
        jax.random.fold_in(rng, 1),
        context=context,
        documents=[i for i, _ in written],
    )
    questions = []
    for ((i, text), sentence), [completion] in zip(written.items(), answers):
        reply = tokenizer.reply_text(completion.tokens)
        invents = study.is_grounded and ungrounded(reply, pages[i])
        is_kept = bool(reply) and completion.finished and not invents
        questions.append(Question(i, sentence, text, reply if is_kept else None))
    return questions, sum(map(len, drawn))


def is_about(question: str, sentence: str) -> bool:
    """Whether it is a question, in any script, and shares a content word with the sentence."""
    return is_question(question) and not content_words(question).isdisjoint(content_words(sentence))


def is_question(text: str) -> bool:
    """Whether it ends in a question mark of any script, or in the か that Japanese has for it."""
    text = text.rstrip()
    if not text:
        return False
    is_marked = "QUESTION" in unicodedata.name(text[-1], "")
    is_greek = text[-1] == ";" and language(text) == "el"
    return is_marked or is_greek or tidy(text).rstrip("。. ").endswith("か")


def answer(questions: Sequence[Question], prompts: Prompts) -> list[Exchange]:
    """The teacher's replies to its questions: the quoted sentence, and its own words where they are
    grounded."""
    replies = [(q, "quote", q.sentence) for q in questions]
    replies += [(q, "answer", q.answer) for q in questions if q.answer]
    return [
        Exchange(
            document=q.document,
            student=prompts.alone(q.question),
            teacher=prompts.beside(requests.answer(q.question)),
            completion=prompts.reply(reply),
            kind=kind,
        )
        for q, kind, reply in replies
    ]


def rehearse(
    cfg: DecoderConfig,
    variables,
    tokenizer: Tokenizer,
    topics: Sequence[str],
    study: StudyConfig,
    rng,
    draw: Draw | None = None,
) -> list[Exchange]:
    """What the model says on general prompts, asked in a chat and begun as plain text, in turn.

    The teacher of these is the model as it was, without a document; `draw` as for `ask`.
    """
    if not topics or not study.rehearsals:
        return []
    prompts = Prompts(tokenizer)
    asked = [(prompts.plain if i % 2 else prompts.alone)(t) for i, t in enumerate(topics)]
    drawn = (draw or generate)(
        cfg,
        SamplingConfig(
            study.max_answer_tokens,
            tokenizer.eos_ids,
            temperature=study.temperature,
            group=study.rehearsals,
        ),
        variables,
        asked,
        rng,
    )
    return [
        Exchange(None, prompt, prompt, c.tokens, "rehearse")
        for prompt, group in zip(asked, drawn)
        for c in group
    ]
