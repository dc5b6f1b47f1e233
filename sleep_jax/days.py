"""The days of a run: which documents are read on each, what is asked about them, and the settings
of each night.

A run is a list of days that only grows. `WORKDIR/days.json` holds all that it was given so far, the
past and what is still to come; a run goes on from there, and reads no document of a past day again.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from sleep_jax.config import restored
from sleep_jax.data.chunking import Encode
from sleep_jax.data.documents import Document, QuestionAnswer, Source
from sleep_jax.fields import Fields, read_object
from sleep_jax.runtime.workdir import days_path


@dataclasses.dataclass(frozen=True)
class EvalQuestion:
    """One wording of a question that came with a document; nothing is trained on it.

    Attributes:
      document: index of its document among those of its day.
      text: the question.
      answers: the short answer and its other forms.
      is_paraphrase: it is the held-out wording.
    """

    document: int
    text: str
    answers: tuple[str, ...]
    is_paraphrase: bool


@dataclasses.dataclass(frozen=True)
class Day:
    """One episode: what is read on one day.

    Attributes:
      documents: in the order of reading.
      questions: what will be asked about them; empty for documents without questions.
      config: the settings of its night; None: those of the run.
    """

    documents: tuple[Document, ...]
    questions: tuple[EvalQuestion, ...]
    config: ml_collections.FrozenConfigDict | None = None

    @classmethod
    def of(
        cls, documents: Sequence[Document], config: ml_collections.FrozenConfigDict | None = None
    ) -> "Day":
        """The day on which documents are read, with the questions that came with them."""
        questions = []
        for i, document in enumerate(documents):
            for q in document.questions:
                answers = (q.answer, *q.aliases)
                questions.append(EvalQuestion(i, q.question, answers, False))
                if q.paraphrase:
                    questions.append(EvalQuestion(i, q.paraphrase, answers, True))
        return cls(tuple(documents), tuple(questions), config)


def reading_of(days: Sequence[Day]) -> str:
    """Fingerprint of what is read and asked on some days, 16 hexadecimal digits of a SHA-256."""
    texts = [[dataclasses.asdict(document) for document in day.documents] for day in days]
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:16]


def cut_into_days(
    config: ml_collections.ConfigDict, source: Source, encode: Encode, known: Sequence[Day] = ()
) -> tuple[str, tuple[Day, ...]]:
    """The documents of a source, cut into chunks and spread over new days of a run, in order and as
    evenly as can be.

    Args:
      config: of the run.
      source: whole documents.
      encode: text to token ids.
      known: the days before these. A text that one of them has is left out.

    Returns:
      (a line that says what is read, the new days); no days where every text is known.

    Raises:
      ValueError: as `Source.chunk`; or there are more days than documents.
    """
    chunked = source.chunk(config.data.chunk_tokens, encode)
    read_before = {document.text for day in known for document in day.documents}
    new = [document for document in chunked.documents if document.text not in read_before]
    line, left_out = str(chunked), len(chunked.documents) - len(new)
    if left_out:
        line += f"; {left_out:,} of them read before, and left out"
    return line, _days(new, config.data.episodes) if new or not known else ()


def _days(documents: Sequence[Document], episodes: int) -> tuple[Day, ...]:
    if not 1 <= episodes <= len(documents):
        raise ValueError(
            f"data.episodes={episodes}, but there are {len(documents)} documents to read; every "
            "day needs one"
        )
    parts = np.array_split(range(len(documents)), episodes)
    return tuple(Day.of([documents[i] for i in part]) for part in parts)


def read_days(workdir: str | os.PathLike[str]) -> tuple[Day, ...]:
    """All days that a run was given, each with the settings of its night; () where nothing says.

    Raises:
      ValueError: the file is damaged, or was changed; says what to do.
    """
    path = days_path(workdir)
    if not path.exists():
        return ()
    days = read_object(path).objects("days")
    return tuple(_day(day, number) for number, day in enumerate(days, 1))


def write_days(workdir: str | os.PathLike[str], days: Sequence[Day]) -> None:
    """Writes all days of a run, atomically; each has the settings of its night. Of several
    processes the first one does, once all have come here.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("days read")
    if jax.process_index():
        return
    facts = [
        {
            "reading": reading_of([day]),
            "documents": [dataclasses.asdict(document) for document in day.documents],
            "config": day.config.to_dict(),
        }
        for day in days
    ]
    path = days_path(workdir)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".json.new")
    draft.write_text(json.dumps({"days": facts}), encoding="utf-8")
    draft.replace(path)


def _day(facts: Fields, number: int) -> Day:
    """A day as it was written."""
    config = ml_collections.FrozenConfigDict(restored(facts.section("config"), facts.where))
    day = Day.of([_document(document) for document in facts.objects("documents")], config)
    if (now := reading_of([day])) != (written := facts.text("reading")):
        raise ValueError(
            f"{facts.where}: the documents of day {number} were changed (fingerprint {written}, "
            f"now {now}); put an undamaged copy of the file there"
        )
    return day


def _document(facts: Fields) -> Document:
    questions = tuple(
        QuestionAnswer(
            question=q.text("question"),
            answer=q.text("answer"),
            paraphrase=q.text("paraphrase", None),
            aliases=tuple(q.texts("aliases")),
        )
        for q in facts.objects("questions")
    )
    return Document(facts.text("id"), facts.text("title"), facts.text("text"), questions)
