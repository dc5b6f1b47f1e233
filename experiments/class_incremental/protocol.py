"""Classes that arrive in groups, without task ids: sizes, and the groups of a seed.

A fifth of the classes of a set, the same for all seeds, is for tuning (`tune`); what is reported is
measured on the others (`report`). After each group a method is asked for the class of the test
texts of every group so far; it replies with a name, and all classes seen so far are candidates.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sleep_jax.baselines.labels import label_in, label_request
from sleep_jax.data.class_sets import READERS, ClassSet, Labelled
from sleep_jax.models.decoder_config import REMATS
from sleep_jax.settings import Settings, setting

SPLITS = ("tune", "report")
SPLIT_SEED = 2019


@dataclasses.dataclass(frozen=True)
class Sizes(Settings, section="classes"):
    """Sizes of a comparison, the same for all methods."""

    dataset: str = setting("clinc150", "set of texts with classes", choices=tuple(READERS))
    model: str = setting("SmolLM2-135M-Instruct", "the base: a name, a folder or a .gguf file")
    dtype: str = setting("bfloat16", "of matrix products", choices=("bfloat16", "float32"))
    remat: str = setting("none", "what the backward pass recomputes", choices=REMATS)
    groups: int = setting(5, "groups of classes; 0: as many as there are", least=0)
    group_size: int = setting(6, "classes of a group", least=1)
    train: int = setting(10, "texts to learn from of a class; 0: all", least=0)
    test: int = setting(5, "test texts of a class; 0: all", least=0)
    updates: int = setting(30, "updates of a group", least=1)
    batch: int = setting(16, "texts of an update", least=1)
    capacity: int = setting(
        60, "most earlier texts that are kept, by methods that keep some", least=1
    )
    earlier_share: float = setting(
        0.5, "share of earlier texts in what these learn from", above=0, below=1
    )
    rank: int = setting(16, "of a slot, and of the adapter of the other methods", least=1)
    shots: int = setting(
        2, "texts of each class in view, in context and of the teacher of a night; 0: all", least=0
    )
    rows: int = setting(16, "replies that are written at a time", least=1)
    max_new_tokens: int = setting(16, "longest reply, in tokens", least=1)


FULL = {"remat": "full", "groups": 0, "group_size": 15, "train": 100, "test": 30, "updates": 200,
        "batch": 32, "capacity": 600, "rank": 32, "rows": 8}  # fmt: skip
PRESETS = {
    "smollm2": Sizes(),
    "first": Sizes(groups=3, group_size=3, train=4, test=4, updates=10, batch=8, capacity=8),
    "llama-3.2-3b": Sizes(model="meta-llama/Llama-3.2-3B-Instruct", shots=4, **FULL),
    "llama-3-8b": Sizes(model="meta-llama/Meta-Llama-3-8B-Instruct", shots=1, **FULL),
}


class Group(NamedTuple):
    """Classes that arrive together, and their texts."""

    labels: tuple[str, ...]
    train: tuple[Labelled, ...]
    test: tuple[Labelled, ...]


def classes_of(split: str, labels: Sequence[str]) -> tuple[str, ...]:
    """The classes of a split: a fifth of all for `tune`, the others for `report`; sorted."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r}; choose from {', '.join(SPLITS)}")
    labels = sorted(labels)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    count = len(labels) // 5
    chosen = order[:count] if split == "tune" else order[count:]
    return tuple(sorted(labels[i] for i in chosen))


def groups_of(sizes: Sizes, data: ClassSet, split: str, seed: int) -> list[Group]:
    """The groups of a seed in the order in which they arrive.

    Raises:
      ValueError: the split has fewer classes than the groups need.
    """
    data = data.of(classes_of(split, data.labels)).at_most(sizes.train, sizes.test, seed)
    whole = len(data.labels) // sizes.group_size
    if (count := sizes.groups or whole) > whole or not whole:
        raise ValueError(
            f"groups={sizes.groups} of group_size={sizes.group_size}, but {split} has "
            f"{len(data.labels)} classes; lower one of them"
        )
    labels = data.groups(sizes.group_size, seed)[:count]
    return [Group(x, data.of(x).train, data.of(x).test) for x in labels]


def is_right(
    replies: Sequence[str], examples: Sequence[Labelled], candidates: Sequence[str]
) -> list[bool]:
    """Whether each reply names the class of its text, of all candidates."""
    return [label_in(reply, candidates) == x.label for reply, x in zip(replies, examples)]


def requests(examples: Sequence[Labelled]) -> list[str]:
    """What is asked about texts."""
    return [label_request(x.text) for x in examples]


def first_of_each(examples: Sequence[Labelled], shots: int) -> list[Labelled]:
    """At most so many texts of each class, the first ones, in order; 0: all."""
    counts: collections.Counter[str] = collections.Counter()
    chosen = []
    for x in examples:
        counts[x.label] += 1
        if not shots or counts[x.label] <= shots:
            chosen.append(x)
    return chosen


def examples_of(groups: Sequence[Group]) -> list[Labelled]:
    """All texts to learn from, in the order in which they arrive."""
    return [x for group in groups for x in group.train]
