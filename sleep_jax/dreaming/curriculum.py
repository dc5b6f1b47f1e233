"""Curriculum: the documents that a night dreams about, those answered worst first.

    recent   documents of the day; if not all of them, the ones answered worst
    weak     earlier documents, the ones answered worst: new dreams are written about them
    old      other earlier documents, at random: earlier dreams about them are rehearsed

How well a document is answered is tau of the current model, closed book, on questions that it wrote
about the document and never learns. An earlier document is not read again: earlier dreams about it
stand in for its text, unless a replay buffer keeps that (`source`).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sleep_jax.data.documents import Document
from sleep_jax.settings import Settings, setting

RECENT, WEAK, OLD = ROLES = ("recent", "weak", "old")
SOURCES = ("dreams", "text")


@dataclasses.dataclass(frozen=True)
class CurriculumConfig(Settings, section="dreaming.curriculum"):
    """How many documents of each role a night has.

    Raises:
      ValueError: a field has no such value.
    """

    recent: int = setting(0, "documents of the day, worst answered first; 0: all", least=0)
    weak: int = setting(
        1, "earlier documents, worst answered first, with new dreams; 0: none", least=0
    )
    old: int = setting(2, "other earlier documents, at random, dreams rehearsed; 0: none", least=0)
    source: str = setting(
        "dreams", "what dreams about earlier documents are written from: earlier dreams, or text",
        choices=SOURCES,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DreamContext:
    """A document that a night dreams about.

    Attributes:
      day, document: index of its day, and its index among the documents of that day.
      role: one of `ROLES`.
      tau: how well it was answered; None if it was not scored.
    """

    day: int
    document: int
    role: str
    tau: float | None = None


def draw_contexts(
    config: CurriculumConfig,
    tau: Mapping[tuple[int, int], float | None],
    today: int,
    seed: int,
) -> list[DreamContext]:
    """Draws the documents of a night, in the order of `ROLES`.

    Args:
      config: how many of each role.
      tau: of every (day, document) that may be drawn; None: not scored, ranks as best answered.
      today: index of the day.
      seed: of the random draw, together with the day.
    """

    def worst_first(documents):
        return sorted(documents, key=lambda x: math.inf if tau[x] is None else tau[x])

    earlier = [x for x in tau if x[0] < today]
    recent = sorted(worst_first([x for x in tau if x[0] == today])[: config.recent or None])
    weak = worst_first(earlier)[: config.weak]
    rest = [x for x in earlier if x not in weak]
    order = np.random.default_rng((seed, 2, today)).permutation(len(rest))[: config.old]
    chosen = {RECENT: recent, WEAK: weak, OLD: [rest[i] for i in sorted(order)]}
    return [DreamContext(*x, role, tau[x]) for role in ROLES for x in chosen[role]]


def recollected_document(
    document: Document, dreams: Sequence[str], length: Callable[[str], int], max_tokens: int
) -> Document:
    """A document whose text is replaced by the latest dreams about it.

    Args:
      document: its text is not used.
      dreams: about it, oldest first; at least one.
      length: function from a text to its number of tokens.
      max_tokens: of the new text; the newest dream is kept in any case.
    """
    texts = list(dreams)
    while len(texts) > 1 and length("\n".join(texts)) > max_tokens:
        texts.pop(0)
    return dataclasses.replace(document, text="\n".join(texts), questions=())
