"""The days of a run: which documents are read on each, and what is asked about them."""

import dataclasses
from collections.abc import Sequence

import ml_collections
import numpy as np

from sleep_jax.data.chunking import Encode
from sleep_jax.data.documents import Document, Source


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
    """

    documents: tuple[Document, ...]
    questions: tuple[EvalQuestion, ...]

    @classmethod
    def of(cls, documents: Sequence[Document]) -> "Day":
        """The day on which documents are read, with the questions that came with them."""
        questions = []
        for i, document in enumerate(documents):
            for q in document.questions:
                answers = (q.answer, *q.aliases)
                questions.append(EvalQuestion(i, q.question, answers, False))
                if q.paraphrase:
                    questions.append(EvalQuestion(i, q.paraphrase, answers, True))
        return cls(tuple(documents), tuple(questions))


def cut_into_days(
    config: ml_collections.ConfigDict, source: Source, encode: Encode
) -> tuple[str, tuple[Day, ...]]:
    """The documents of a source, cut into chunks and spread over the days of a run, in order and as
    evenly as can be.

    Args:
      config: of the run.
      source: whole documents.
      encode: text to token ids.

    Returns:
      (a line that says what is read, the days).

    Raises:
      ValueError: as `Source.chunk`; or there are more days than documents.
    """
    chunked = source.chunk(config.data.chunk_tokens, encode)
    return str(chunked), _days(chunked.documents, config.data.episodes)


def _days(documents: Sequence[Document], episodes: int) -> tuple[Day, ...]:
    if not 1 <= episodes <= len(documents):
        raise ValueError(
            f"data.episodes={episodes}, but there are {len(documents)} documents to read; every "
            "day needs one"
        )
    parts = np.array_split(range(len(documents)), episodes)
    return tuple(Day.of([documents[i] for i in part]) for part in parts)
