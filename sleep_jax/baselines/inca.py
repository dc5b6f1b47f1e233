"""InCA, in-context continual learning with an external learner (Momeni et al. 2024, arXiv
2412.15563): classes that arrive over time, without training and without examples kept.

    inca = InCA.create(model, encoder)
    for examples in groups_of_classes:
        inca = inca.learn(examples)
    labels = inca.classify(texts)

1. The model writes tags of a text, which a sentence encoder embeds.
2. The external learner keeps a Gaussian a class over its tags: a mean each, and one covariance that
   all share. Both are updated as examples arrive, and are those of all examples at once.
3. The classes nearest to the tags of a new text, by the mean of their Mahalanobis distances, are
   put in view, as a summary each that the model wrote when it learnt the class; it chooses.

A reply that names none of them counts as the nearest. Kept: a mean and a summary a class, and a
covariance.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.linalg
import scipy.spatial

from sleep_jax.baselines.in_context import InContextConfig, replies_in_view
from sleep_jax.baselines.labels import label_in, label_request
from sleep_jax.baselines.model import Model
from sleep_jax.data.class_sets import Labelled
from sleep_jax.data.documents import Document
from sleep_jax.evals.recall import greedy_replies
from sleep_jax.interop.prompts import Prompts
from sleep_jax.rewards.semantic import Encoder
from sleep_jax.settings import Settings, setting

TAGS_REQUEST = (
    "Text: {text}\nList the topics, keywords and intents of the text as short tags, separated by "
    "commas."
)
SUMMARY_REQUEST = (
    "These texts belong to the class {label}:\n\n{texts}\n\nSay in one sentence what texts of this "
    "class are about."
)


@dataclasses.dataclass(frozen=True)
class InCAConfig(Settings, section="inca"):
    """How classes are told apart. The number of classes is the paper's."""

    classes: int = setting(3, "nearest classes that the model chooses from", least=1)
    max_tag_tokens: int = setting(48, "tokens of the tags of a text", least=1)
    max_summary_tokens: int = setting(96, "tokens of the summary of a class", least=1)
    summary_examples: int = setting(10, "examples that a summary is written from", least=1)
    ridge: float = setting(
        1e-3, "added to the variance of every direction: those without any have no inverse", above=0
    )


@dataclasses.dataclass(frozen=True)
class ClassGaussians:
    """Gaussians with a mean for each class and a covariance that all share.

    Attributes:
      labels: the classes, in the order in which they arrived.
      counts: int [classes], vectors of each.
      means: float64 [classes, width].
      scatter: float64 [width, width], sum over all vectors of the outer product of their distance
        to the mean of their class.
    """

    labels: tuple[str, ...]
    counts: np.ndarray
    means: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, width: int) -> "ClassGaussians":
        """Without a class."""
        return cls((), np.zeros(0, int), np.zeros((0, width)), np.zeros((width, width)))

    def add(self, label: str, vectors: np.ndarray) -> "ClassGaussians":
        """With more vectors [count, width] of a new class or of one that is known; the same as if
        all had come at once (Chan et al. 1983)."""
        vectors = np.asarray(vectors, np.float64)
        known = label in self.labels
        index = self.labels.index(label) if known else len(self.labels)
        labels = self.labels if known else (*self.labels, label)
        counts = self.counts.copy() if known else np.append(self.counts, 0)
        means = self.means.copy() if known else np.vstack([self.means, np.zeros(vectors.shape[1])])
        count, mean = counts[index], vectors.mean(axis=0)
        gap, total = mean - means[index], count + len(vectors)
        within = (vectors - mean).T @ (vectors - mean)
        between = count * len(vectors) / total * np.outer(gap, gap)
        counts[index], means[index] = total, means[index] + len(vectors) / total * gap
        return ClassGaussians(labels, counts, means, self.scatter + within + between)

    def covariance(self, ridge: float) -> np.ndarray:
        """The shared covariance and `ridge` times the identity, float64 [width, width]."""
        shared = self.scatter / max(self.counts.sum(), 1)
        return shared + ridge * np.eye(len(shared))

    def distances(self, vectors: np.ndarray, ridge: float) -> np.ndarray:
        """Mahalanobis distances of vectors [count, width] to the means: [count, classes]."""
        factor = np.linalg.cholesky(self.covariance(ridge))
        vectors, means = (
            scipy.linalg.solve_triangular(factor, x.T, lower=True).T
            for x in (np.asarray(vectors, np.float64), self.means)
        )
        return scipy.spatial.distance.cdist(vectors, means)


@dataclasses.dataclass(frozen=True)
class InCA:
    """A classifier of texts.

    Attributes:
      model: with a tokenizer; it is not trained.
      encoder: of tags, such as `models.encoder.load_encoder` has it.
      config: how.
      gaussians: of the classes so far.
      summaries: of each of them.
    """

    model: Model
    encoder: Encoder
    config: InCAConfig
    gaussians: ClassGaussians
    summaries: Mapping[str, str]

    @classmethod
    def create(cls, model: Model, encoder: Encoder, config: InCAConfig = InCAConfig()) -> "InCA":
        """Before the first class."""
        width = np.shape(encoder.encode(["width"]))[1]
        return cls(model, encoder, config, ClassGaussians.empty(width), {})

    def learn(self, examples: Sequence[Labelled]) -> "InCA":
        """With these examples, of new classes or known ones; a class is summarised once."""
        by_label: dict[str, list[str]] = {}
        for text, label in examples:
            by_label.setdefault(label, []).append(text)
        tags, gaussians = iter(self.embedded_tags([x.text for x in examples])), self.gaussians
        for example in examples:
            gaussians = gaussians.add(example.label, next(tags))
        new = [label for label in by_label if label not in self.summaries]
        requests = [
            SUMMARY_REQUEST.format(
                label=label, texts="\n".join(by_label[label][: self.config.summary_examples])
            )
            for label in new
        ]
        written = self._replies(requests, self.config.max_summary_tokens)
        summaries = {**self.summaries, **dict(zip(new, written))}
        return dataclasses.replace(self, gaussians=gaussians, summaries=summaries)

    def nearest(self, texts: Sequence[str]) -> list[list[str]]:
        """The labels of the classes nearest to each text, the nearest first."""
        out = []
        for vectors in self.embedded_tags(texts):
            distances = self.gaussians.distances(vectors, self.config.ridge).mean(axis=0)
            order = np.argsort(distances, kind="stable")[: self.config.classes]
            out.append([self.gaussians.labels[i] for i in order])
        return out

    def classify(self, texts: Sequence[str]) -> list[str]:
        """The label of each text.

        Raises:
          ValueError: no class was learnt.
        """
        if not self.summaries:
            raise ValueError("no class was learnt; give examples to InCA.learn first")
        nearest = self.nearest(texts)
        views = [[Document(x, x, self.summaries[x]) for x in labels] for labels in nearest]
        requests = [label_request(text) for text in texts]
        replies = replies_in_view(self.model, views, requests, InContextConfig(max_new_tokens=32))
        return [label_in(reply, labels) or labels[0] for reply, labels in zip(replies, nearest)]

    def embedded_tags(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The embeddings [tags, width] of each text's tags."""
        replies = self._replies(
            [TAGS_REQUEST.format(text=text) for text in texts], self.config.max_tag_tokens
        )
        tags = [tags_in(reply) or [text] for reply, text in zip(replies, texts)]
        vectors = np.asarray(self.encoder.encode([tag for group in tags for tag in group]))
        return np.split(vectors, np.cumsum([len(group) for group in tags])[:-1])

    def _replies(self, requests: Sequence[str], max_new_tokens: int) -> list[str]:
        model, prompts = self.model, Prompts(self.model.tokenizer)
        asked = [prompts.without_context(request) for request in requests]
        return greedy_replies(
            model.cfg, model.variables, model.tokenizer, asked, max_new_tokens=max_new_tokens
        )


def tags_in(reply: str) -> list[str]:
    """The tags of a reply, each once, without bullets and numbers before them."""
    parts = (re.sub(r"^\s*(?:[-*•]|\d+[.)])?\s*", "", x) for x in re.split(r"[,;\n]", reply))
    return list(dict.fromkeys(x.strip(" .") for x in parts if x.strip(" .")))
