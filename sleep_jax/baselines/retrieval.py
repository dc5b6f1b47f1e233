"""Retrieval: the texts that a question has most in common with are in view.

    retriever = bm25(texts)                                   # or by_embedding(texts, encoder)
    views = retrieved(retriever, documents, questions)
    replies = replies_in_view(model, views, [*map(answer_request, questions)])

One text is put before the request, as in in-context retrieval augmentation (Ram et al. 2023, arXiv
2302.00083). All texts are kept, and nothing is learnt.

bm25       BM25 (Robertson and Zaragoza 2009) of the package `bm25s` (Lù 2024, arXiv 2407.03618) in
           Lucene's form, k1 and b those of Pyserini
embedding  cosine of embeddings: of a sentence encoder (`models.encoder.load_encoder`), or the means
           of a model's own hidden states (`HiddenStateEncoder`)
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.baselines.model import Model
from sleep_jax.data.batches import bucket, pad
from sleep_jax.data.documents import Document
from sleep_jax.models.decoder import Decoder
from sleep_jax.rewards.semantic import Encoder
from sleep_jax.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class RetrievalConfig(Settings, section="retrieval"):
    """What is retrieved."""

    texts: int = setting(1, "texts that are put into view", least=1)
    k1: float = setting(0.9, "how soon more of a word counts no more, of BM25", least=0)
    b: float = setting(0.4, "how much longer texts are discounted, of BM25", least=0, most=1)


class Retriever(Protocol):
    """Scores texts by what they have in common with queries."""

    def scores(self, queries: Sequence[str]) -> np.ndarray:
        """float [queries, texts]; higher is nearer."""


def retrieved(
    retriever: Retriever,
    documents: Sequence[Document],
    queries: Sequence[str],
    config: RetrievalConfig = RetrievalConfig(),
) -> list[list[Document]]:
    """The nearest documents of each query, the nearest one last, next to what is asked.

    Args:
      retriever: of the texts of these documents.
      documents: as many as the retriever has texts.
      queries: such as questions.
      config: how many.
    """
    # Of equal scores the first one counts as nearer.
    order = np.argsort(-retriever.scores(queries), axis=1, kind="stable")[:, : config.texts]
    return [[documents[i] for i in reversed(nearest)] for nearest in order]


@dataclasses.dataclass(frozen=True)
class BM25:
    """An index of `bm25s`; `bm25` makes one."""

    index: object
    count: int

    def scores(self, queries: Sequence[str]) -> np.ndarray:
        """float32 [queries, texts]."""
        words = [_words(query) for query in queries]
        none = np.zeros(self.count, np.float32)
        return np.stack([self.index.get_scores(x) if x else none for x in words])


def bm25(texts: Sequence[str], config: RetrievalConfig = RetrievalConfig()) -> BM25:
    """The index of texts.

    Raises:
      ImportError: the package `bm25s` is not installed.
    """
    try:
        import bm25s
    except ImportError as error:
        raise ImportError(
            "BM25 comes from the package bm25s: pip install -e '.[retrieval]', or retrieve by "
            "embedding"
        ) from error
    index = bm25s.BM25(method="lucene", k1=config.k1, b=config.b)
    index.index([_words(text) for text in texts], show_progress=False)
    return BM25(index, len(texts))


def _words(text: str) -> list[str]:
    """Lower case, without the commonest English words."""
    import bm25s

    [words] = bm25s.tokenize([text], stopwords="en", return_ids=False, show_progress=False)
    return words


@dataclasses.dataclass(frozen=True)
class EmbeddedTexts:
    """Embeddings of texts; `by_embedding` makes them.

    Attributes:
      encoder: of texts and queries.
      vectors: of the texts, float32 [texts, width], of norm 1.
    """

    encoder: Encoder
    vectors: np.ndarray

    def scores(self, queries: Sequence[str]) -> np.ndarray:
        """Cosines, float32 [queries, texts]."""
        return _of_norm_1(self.encoder.encode(queries)) @ self.vectors.T


def by_embedding(texts: Sequence[str], encoder: Encoder) -> EmbeddedTexts:
    """The texts by an encoder."""
    return EmbeddedTexts(encoder, _of_norm_1(encoder.encode(texts)))


def _of_norm_1(vectors) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@dataclasses.dataclass(frozen=True)
class HiddenStateEncoder:
    """Texts as the mean of a model's own last hidden states over their tokens.

    Attributes:
      model: with a tokenizer.
      batch: texts at a time.
    """

    model: Model
    batch: int = 16

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [texts, width]; of a text without a token, 0."""
        rows = [self.model.tokenizer.encode(text) for text in texts]
        width, out = bucket(max(map(len, rows), default=1)), []
        for start in range(0, len(rows), self.batch):
            group = rows[start : start + self.batch]
            filled = group + [()] * (self.batch - len(group))
            tokens, mask = pad(filled, width)
            out.append(np.asarray(_mean_hidden(self.model, tokens, mask))[: len(group)])
        return np.concatenate(out) if out else np.zeros((0, self.model.cfg.width), np.float32)


@jax.jit
def _mean_hidden(model: Model, tokens, mask):
    hidden = Decoder(model.cfg).apply(model.variables, tokens, mask)
    total = jnp.sum(jnp.where(mask[..., None] > 0, hidden, 0.0), axis=1)
    return total / jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)
