"""What is read, night after night, and asked in the end.

facts     twenty documents
changes   six documents, then a correction of each
hostile   eight documents with hidden instructions
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from facts import Correction, Question, Text, correct, invent, write
from hostile import Hostile, invent_hostile
from names import Pool

NIGHTS = {"facts": 20, "changes": 12, "hostile": 8}
STREAMS = (*NIGHTS,)


@dataclasses.dataclass(frozen=True)
class Stream:
    """Documents, one a night.

    Attributes:
      name: of `STREAMS`.
      documents: in the order of reading.
      questions: that are asked about each document; of those that a later one corrects none, as
        the correction has them.
      asked_after: nights after which they are, from 0, the last one among them.
      forgotten: days that are taken back in the end, each alone, from 0.
      hostile: what the documents hide.
    """

    name: str
    documents: tuple[Text | Correction, ...]
    questions: tuple[tuple[Question, ...], ...]
    asked_after: tuple[int, ...]
    forgotten: tuple[int, ...] = ()
    hostile: tuple[Hostile, ...] = ()

    def write(self, path: pathlib.Path) -> pathlib.Path:
        """Writes the documents to a file, unless it exists; returns its path."""
        return path if path.exists() else write(path, self.documents)


def make(name: str, seed: int, nights: int = 0) -> Stream:
    """A stream of a seed.

    Args:
      name: of `STREAMS`.
      seed: of its documents.
      nights: how many, an even number for `changes`; 0: as many as `NIGHTS` has.
    """
    pool, nights = Pool(seed), nights or NIGHTS[name]
    last = nights - 1
    if name == "hostile":
        hostile = invent_hostile(pool, nights)
        texts = [x.text for x in hostile]
        questions = [(*_recall(x.text), *x.probes) for x in hostile]
        return Stream(name, (*texts,), (*questions,), (last,), hostile=(*hostile,))
    if name == "changes":
        if nights % 2:
            raise ValueError(f"nights={nights}; give an even number, half of them correct facts")
        texts = invent(pool, nights // 2)
        corrections = correct(texts, pool)
        questions = [()] * len(texts) + [(*x.questions,) for x in corrections]
        return Stream(name, (*texts, *corrections), (*questions,), (nights // 2 - 1, last))
    texts = invent(pool, nights)
    questions = [(*x.questions,) for x in texts]
    days = (*dict.fromkeys((0, nights // 2, last)),)
    return Stream(name, (*texts,), (*questions,), (last,), forgotten=days)


def _recall(text: Text) -> Sequence[Question]:
    return [q for q in text.questions if q.kind == "recall"]
