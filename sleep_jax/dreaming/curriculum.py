"""Curriculum: what a night dreams about, by how badly it is still answered.

    recent   documents of the day; where that is not all of them, the ones answered worst
    weak     earlier documents, the ones answered worst: they are dreamt about anew
    old      others of the earlier ones, at random: what was dreamt about them is rehearsed

How well a document is answered is tau of the model as it is, over questions of its own that are
never learnt, with no document in view. An earlier document is not read again: the model recollects
what it dreamt about it, unless a replay buffer keeps the text.
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
    """How many documents of each kind a night has.

    Raises:
      ValueError: a field has no such value.
    """

    recent: int = setting(0, "documents of the day, those answered worst; 0: all", least=0)
    weak: int = setting(
        1, "earlier documents, those answered worst: dreamt about anew; 0: none", least=0
    )
    old: int = setting(2, "others of earlier days, at random: dreams rehearsed; 0: none", least=0)
    source: str = setting(
        "dreams", "what an earlier document is dreamt from: what was dreamt, or its text kept",
        choices=SOURCES,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DreamContext:
    """A document that a night has to do with.

    Attributes:
      day, document: index of its day, and its own among those of that day.
      role: one of `ROLES`.
      tau: how well it was answered; None where that was not asked.
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
    """The documents of a night, by role.

    Args:
      config: how many of each.
      tau: of every (day, document) that may be drawn; None: not asked, which counts as answered.
      today: index of the day.
      seed: of what is drawn at random, together with the day.
    """

    def worst(those):
        return sorted(those, key=lambda x: math.inf if tau[x] is None else tau[x])

    earlier = [x for x in tau if x[0] < today]
    recent = sorted(worst([x for x in tau if x[0] == today])[: config.recent or None])
    weak = worst(earlier)[: config.weak]
    rest = [x for x in earlier if x not in weak]
    order = np.random.default_rng((seed, 2, today)).permutation(len(rest))[: config.old]
    chosen = {RECENT: recent, WEAK: weak, OLD: [rest[i] for i in sorted(order)]}
    return [DreamContext(*x, role, tau[x]) for role in ROLES for x in chosen[role]]


def recollected_document(
    document: Document, dreams: Sequence[str], length: Callable[[str], int], most: int
) -> Document:
    """What is left of a document that is not read again: what was last dreamt about it.

    Args:
      document: of which the text is not used.
      dreams: about it, oldest first; at least one.
      length: tokens of a text.
      most: tokens that it may have; one dream is left in any case.
    """
    told = list(dreams)
    while len(told) > 1 and length("\n".join(told)) > most:
        told.pop(0)
    return dataclasses.replace(document, text="\n".join(told), questions=())
