"""What the sleeping model is compared with, one interface for all: a learner learns a group of
classes, replies to requests, and is saved between groups.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from protocol import Sizes, first_of_each, requests

from sleep_jax.baselines.inca import ClassGaussians, InCA
from sleep_jax.baselines.labels import chat_request, examples_chat, label_pairs
from sleep_jax.baselines.model import Model
from sleep_jax.baselines.sequential import SequentialLearner
from sleep_jax.data.batches import bucket
from sleep_jax.data.class_sets import Labelled
from sleep_jax.evals.recall import greedy_replies
from sleep_jax.interop.prompts import Prompts
from sleep_jax.wake.context import read


class Learner(Protocol):
    """A method.

    Attributes:
      model: as it is now.
      stores: earlier texts that it keeps, and how many of them with their labels.
    """

    model: Model
    stores: tuple[int, int]

    def learn(self, examples: Sequence[Labelled]) -> "Learner":
        """After one more group."""

    def replies(self, examples: Sequence[Labelled]) -> list[str] | None:
        """To the requests for the classes of texts; None: it has not learnt yet."""

    def save(self, folder: pathlib.Path) -> None:
        """Writes what changes from group to group."""

    def restore(self, folder: pathlib.Path, learnt: Sequence[Labelled]) -> "Learner":
        """As it was saved there, after it had learnt these texts."""


def closed_book_replies(model: Model, examples: Sequence[Labelled], sizes: Sizes) -> list[str]:
    """Greedy replies to the requests for the classes of texts, with nothing in view."""
    prompts = Prompts(model.tokenizer)
    return _replies(model, [prompts.without_context(x) for x in requests(examples)], sizes)


def replies_after(
    model: Model, shown: Sequence[Labelled], examples: Sequence[Labelled], sizes: Sizes
) -> list[str]:
    """The same with labelled texts in view."""
    context = read(model.cfg, model.variables, [examples_chat(model.tokenizer, shown)])[0]
    asked = [chat_request(model.tokenizer, x.text) for x in examples]
    return _replies(model, asked, sizes, context)


def _replies(model: Model, asked: Sequence[tuple[int, ...]], sizes: Sizes, context=None):
    """Greedy replies, by calls of one shape, however many are asked; after row 0 of a context."""
    longest, replies = bucket(max(map(len, asked))), []
    for start in range(0, len(asked), sizes.rows):
        part = list(asked[start : start + sizes.rows])
        filled = part + [part[0]] * (sizes.rows - len(part))
        replies += greedy_replies(
            model.cfg,
            model.variables,
            model.tokenizer,
            filled,
            max_new_tokens=sizes.max_new_tokens,
            width=longest,
            context=context,
            documents=None if context is None else [0] * sizes.rows,
        )[: len(part)]
    return replies


@dataclasses.dataclass(frozen=True)
class FineTuned:
    """An adapter that learns labels as replies, group after group."""

    learner: SequentialLearner
    sizes: Sizes

    @property
    def model(self) -> Model:
        """With the adapter."""
        return self.learner.model

    @property
    def stores(self) -> tuple[int, int]:
        """Replay keeps labels, too."""
        return (len(self.learner.kept.pairs),) * 2

    def learn(self, examples: Sequence[Labelled]) -> "FineTuned":
        """After one more group."""
        pairs = label_pairs(Prompts(self.model.tokenizer), examples)
        return dataclasses.replace(self, learner=self.learner.learn(pairs))

    def replies(self, examples: Sequence[Labelled]) -> list[str]:
        """Closed book."""
        return closed_book_replies(self.model, examples, self.sizes)

    def save(self, folder: pathlib.Path) -> None:
        """The adapter and what the method keeps."""
        self.learner.save(folder)

    def restore(self, folder: pathlib.Path, learnt: Sequence[Labelled]) -> "FineTuned":
        """As it was saved."""
        return dataclasses.replace(self, learner=self.learner.restore(folder))


@dataclasses.dataclass(frozen=True)
class Joint:
    """Fine-tuning on all groups at once, when the last one has arrived: what is lost to their order
    is lost against this."""

    fine_tuned: FineTuned
    groups: int
    examples: tuple[Labelled, ...] = ()
    arrived: int = 0

    @property
    def model(self) -> Model:
        """With the adapter."""
        return self.fine_tuned.model

    @property
    def stores(self) -> tuple[int, int]:
        """All."""
        return (len(self.examples),) * 2

    def learn(self, examples: Sequence[Labelled]) -> "Joint":
        """After one more group; only the last one is learnt, with all before."""
        after = dataclasses.replace(
            self, examples=(*self.examples, *examples), arrived=self.arrived + 1
        )
        if after.arrived < self.groups:
            return after
        return dataclasses.replace(after, fine_tuned=self.fine_tuned.learn(after.examples))

    def replies(self, examples: Sequence[Labelled]) -> list[str] | None:
        """Closed book."""
        return self.fine_tuned.replies(examples) if self.arrived == self.groups else None

    def save(self, folder: pathlib.Path) -> None:
        """How many groups have arrived; the adapter once it has learnt."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "arrived.json").write_text(json.dumps(self.arrived))
        if self.arrived == self.groups:
            self.fine_tuned.save(folder)

    def restore(self, folder: pathlib.Path, learnt: Sequence[Labelled]) -> "Joint":
        """As it was saved."""
        return dataclasses.replace(
            self,
            fine_tuned=self.fine_tuned.restore(folder, learnt),
            examples=tuple(learnt),
            arrived=json.loads((folder / "arrived.json").read_text()),
        )


@dataclasses.dataclass(frozen=True)
class InContext:
    """Nothing is learnt: the first `sizes.shots` texts of every class so far are in view."""

    model: Model
    sizes: Sizes
    examples: tuple[Labelled, ...] = ()

    @property
    def stores(self) -> tuple[int, int]:
        """Those in view."""
        return (len(self.shown),) * 2

    @property
    def shown(self) -> list[Labelled]:
        """What is in view, in the order of arrival."""
        return first_of_each(self.examples, self.sizes.shots)

    def learn(self, examples: Sequence[Labelled]) -> "InContext":
        """With more in view."""
        return dataclasses.replace(self, examples=(*self.examples, *examples))

    def replies(self, examples: Sequence[Labelled]) -> list[str]:
        """With examples in view."""
        return replies_after(self.model, self.shown, examples, self.sizes)

    def save(self, folder: pathlib.Path) -> None:
        """Nothing: the texts are those of the data."""

    def restore(self, folder: pathlib.Path, learnt: Sequence[Labelled]) -> "InContext":
        """With these in view."""
        return dataclasses.replace(self, examples=tuple(learnt))


@dataclasses.dataclass(frozen=True)
class WithExternalLearner:
    """InCA: a Gaussian a class over tags chooses what the model sees."""

    inca: InCA

    @property
    def model(self) -> Model:
        """Which is not trained."""
        return self.inca.model

    @property
    def stores(self) -> tuple[int, int]:
        """No texts, but summaries of classes."""
        return (0, 0)

    def learn(self, examples: Sequence[Labelled]) -> "WithExternalLearner":
        """After one more group."""
        return WithExternalLearner(self.inca.learn(examples))

    def replies(self, examples: Sequence[Labelled]) -> list[str]:
        """The names of the classes chosen."""
        return self.inca.classify([x.text for x in examples])

    def save(self, folder: pathlib.Path) -> None:
        """The Gaussians and the summaries."""
        folder.mkdir(parents=True, exist_ok=True)
        gaussians = dataclasses.asdict(self.inca.gaussians)
        np.savez(folder / "gaussians.npz", **gaussians)
        (folder / "summaries.json").write_text(json.dumps(self.inca.summaries))

    def restore(self, folder: pathlib.Path, learnt: Sequence[Labelled]) -> "WithExternalLearner":
        """As it was saved."""
        with np.load(folder / "gaussians.npz") as kept:
            arrays = dict(kept)
        arrays["labels"] = tuple(arrays["labels"].tolist())
        summaries = json.loads((folder / "summaries.json").read_text())
        return WithExternalLearner(
            dataclasses.replace(self.inca, gaussians=ClassGaussians(**arrays), summaries=summaries)
        )
