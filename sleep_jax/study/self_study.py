"""Self-study: the sequences that a teacher writes about its documents, and rehearsals.

    recite     the document itself, as a reply; its teacher, with the document in context, is nearly
               certain of every token: a dense signal
    complete   a sentence of it, from a cue of its first words
    quote      the sentence that a question by the teacher is about, as the reply to it
    answer     the teacher's free reply to such a question, with the whole document in context
    rehearse   the model's replies to general prompts, so that the night forgets nothing else
    earlier    questions of earlier days, asked again (`study.earlier`)

and variants of the document (`study.variants`).

Questions that share no content word with their sentence, and replies with names or numbers that do
not occur in the document, are dropped, since small teachers invent.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from sleep_jax.data.documents import Document
from sleep_jax.data.sentences import sentences, word_ends
from sleep_jax.interop.prompts import RECITE_REQUEST, Prompts, answer_request
from sleep_jax.seeding.sequences import Exchange
from sleep_jax.study.questions import SelfQuestion
from sleep_jax.study.study_config import StudyConfig


@dataclasses.dataclass(frozen=True)
class Study:
    """What the teacher of a night wrote about the documents of its day.

    Attributes:
      held_out: questions that only measure and reward.
      learnt: questions that are learnt from.
      rehearsed: replies to general prompts.
      earlier: questions of earlier days, asked again.
      variants: texts about the documents.
    """

    held_out: tuple[SelfQuestion, ...]
    learnt: tuple[SelfQuestion, ...]
    rehearsed: tuple[Exchange, ...]
    earlier: tuple[Exchange, ...] = ()
    variants: tuple[Exchange, ...] = ()

    @classmethod
    def from_record(cls, record: dict) -> "Study":
        """The study that `to_record` gave."""
        return cls(
            held_out=tuple(SelfQuestion(**q) for q in record["held_out"]),
            learnt=tuple(SelfQuestion(**q) for q in record["learnt"]),
            rehearsed=tuple(map(_exchange, record["rehearsed"])),
            earlier=tuple(map(_exchange, record.get("earlier", ()))),  # older runs have none
            variants=tuple(map(_exchange, record.get("variants", ()))),
        )

    def to_record(self) -> dict:
        """The study as JSON-able values."""
        return {
            "held_out": [dataclasses.asdict(q) for q in self.held_out],
            "learnt": [dataclasses.asdict(q) for q in self.learnt],
            "rehearsed": [*map(_recorded, self.rehearsed)],
            "earlier": [*map(_recorded, self.earlier)],
            "variants": [{"document": e.document, **_recorded(e)} for e in self.variants],
        }

    def exchanges(
        self, documents: Sequence[Document], prompts: Prompts, config: StudyConfig, seed: int
    ) -> list[Exchange]:
        """All teacher-written sequences of the night.

        Args:
          documents: of the day, as questions index them.
          prompts: of the model.
          config: how many recitations and completions.
          seed: of the cues of completions.
        """
        rng = np.random.default_rng(seed)
        return [
            *recite(documents, prompts, config.recitations),
            *complete(documents, prompts, config.completions, rng),
            *answer(self.learnt, prompts, config.answer_in_view),
            *self.variants,
            *self.rehearsed,
            *self.earlier,
        ]


def _recorded(exchange: Exchange) -> dict[str, Any]:
    """An exchange as JSON-able values, but for its document."""
    return {k: getattr(exchange, k) for k in ("student", "teacher", "completion", "kind")}


def _exchange(record: dict[str, Any]) -> Exchange:
    """The exchange that `_recorded` gave, with its document if it has one."""
    sequences = (tuple(record[k]) for k in ("student", "teacher", "completion"))
    return Exchange(record.get("document"), *sequences, record["kind"])


def without_documents(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """The same sequences without documents, those left out that were known before: for the replay
    of a night between two levels, whose teacher answers closed book."""
    return [
        dataclasses.replace(e, document=None, teacher=e.student)
        for e in exchanges
        if not e.is_known
    ]


def reread(pages: Sequence[Sequence[int]]) -> list[Exchange]:
    """Pages of tokens that were read, as completions of their first token."""
    return [
        Exchange(None, tuple(page[:1]), tuple(page[:1]), tuple(page[1:]), "reread")
        for page in pages
        if len(page) > 1
    ]


def recite(documents: Sequence[Document], prompts: Prompts, times: int) -> list[Exchange]:
    """Every document, `times` times, as the reply to a question about its title."""
    return [
        Exchange(
            document=i,
            student=prompts.tell_about(d),
            teacher=prompts.with_context(RECITE_REQUEST),
            completion=prompts.reply(d.text),
            kind="recite",
        )
        for i, d in enumerate(documents)
        for _ in range(times)
    ]


def complete(
    documents: Sequence[Document], prompts: Prompts, times: int, rng: np.random.Generator
) -> list[Exchange]:
    """Every sentence of three words or more, as the reply to a cue of its first words.

    Args:
      documents: whose sentences are completed.
      prompts: of the model.
      times: cues of each sentence.
      rng: draws the lengths of cues: two words or more, at least one left.
    """
    exchanges = []
    for i, d in enumerate(documents):
        for sentence in sentences(d.text):
            ends = word_ends(sentence)
            for _ in range(times if len(ends) >= 3 else 0):
                last = rng.integers(2, max(3, len(ends) - 1)) - 1
                cue = " ".join(sentence[: ends[last]].split())
                exchanges.append(
                    Exchange(
                        document=i,
                        student=prompts.without_context(f"Complete the sentence: {cue}"),
                        teacher=prompts.with_context(f"Complete the sentence from the text: {cue}"),
                        completion=prompts.reply(sentence),
                        kind="complete",
                    )
                )
    return exchanges


def answer(
    questions: Sequence[SelfQuestion], prompts: Prompts, answer_in_view: bool = False
) -> list[Exchange]:
    """Two exchanges a question: its sentence as the reply and, if there is one, its answer.

    Args:
      questions: of the model.
      prompts: of the model.
      answer_in_view: the teacher of an answer sees that answer beside the document (SDFT: Shenfeld
        et al. 2026, arXiv 2601.19897).
    """
    replies = [(q, "quote", q.sentence, "") for q in questions]
    replies += [(q, "answer", q.answer, answer_in_view * q.answer) for q in questions if q.answer]
    return [
        Exchange(
            document=q.document,
            student=prompts.without_context(q.question),
            teacher=prompts.with_context(answer_request(q.question, shown)),
            completion=prompts.reply(reply),
            kind=kind,
        )
        for q, kind, reply, shown in replies
    ]
