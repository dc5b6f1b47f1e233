"""Retrieval: BM25 by its formula, embeddings, and what comes into view."""

import builtins
import math

import numpy as np
import pytest
from plain_model import plain_hidden

from sleep_jax.baselines.retrieval import (
    HiddenStateEncoder,
    RetrievalConfig,
    bm25,
    by_embedding,
    retrieved,
)
from sleep_jax.data.batches import pad
from sleep_jax.data.documents import Document

TEXTS = ["kiln fires clay clay", "harbour lights", "clay harbour boats sail far", "stone"]
DOCUMENTS = [Document(str(i), f"title {i}", text) for i, text in enumerate(TEXTS)]


def by_formula(query, k1, b):
    """Lucene's BM25 of every text."""
    rows = [text.split() for text in TEXTS]
    mean = sum(map(len, rows)) / len(rows)

    def score(row, word):
        n = sum(word in other for other in rows)
        idf = math.log(1 + (len(rows) - n + 0.5) / (n + 0.5))
        f = row.count(word)
        return idf * f / (f + k1 * (1 - b + b * len(row) / mean))

    return [sum(score(row, word) for word in query) for row in rows]


def test_bm25_by_its_formula():
    pytest.importorskip("bm25s")
    config = RetrievalConfig(k1=1.2, b=0.7)
    got = bm25(TEXTS, config).scores(["Where is the clay of the harbour?", "and the", "sand"])
    want = by_formula(["clay", "harbour"], 1.2, 0.7)
    np.testing.assert_allclose(got, [want, [0] * 4, [0] * 4], rtol=1e-5)


def test_retrieved_has_the_nearest_last_and_the_first_of_equals():
    pytest.importorskip("bm25s")
    retriever = bm25(TEXTS)
    assert retrieved(retriever, DOCUMENTS, ["stone", "sand"]) == [[DOCUMENTS[3]], [DOCUMENTS[0]]]
    [view] = retrieved(retriever, DOCUMENTS, ["clay harbour"], RetrievalConfig(texts=2))
    scores = by_formula(["clay", "harbour"], 0.9, 0.4)
    assert view == [DOCUMENTS[i] for i in np.argsort(scores)[-2:]]
    [view] = retrieved(retriever, DOCUMENTS, ["clay"], RetrievalConfig(texts=9))
    assert len(view) == 4


def test_bm25_without_its_package_says_what_to_install(monkeypatch):
    import_module = builtins.__import__

    def without_bm25s(name, *arguments, **options):
        if name == "bm25s":
            raise ImportError(name)
        return import_module(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_bm25s)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[retrieval\]', or retrieve by"):
        bm25(TEXTS)


class LetterCounts:
    """An encoder: how often a text has each of three letters."""

    def encode(self, texts):
        return np.array([[text.count(letter) for letter in "abc"] for text in texts], np.float32)


def test_embeddings_are_compared_by_cosine():
    got = by_embedding(["ab", "ccc", "x"], LetterCounts()).scores(["aab", "c"])
    want = [[3 / math.sqrt(10), 0, 0], [0, 1, 0]]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_hidden_state_encoder_is_the_mean_over_tokens_whatever_the_padding(tiny):
    texts = ["a kiln", "", "the harbour lights of Oakham"]
    got = HiddenStateEncoder(tiny, batch=2).encode(texts)
    for i in (0, 2):
        n = len(tokens := tiny.tokenizer.encode(texts[i]))
        hidden = plain_hidden(tiny, pad([tokens], 32)[0])[0, :n]
        np.testing.assert_allclose(got[i], np.mean(hidden, axis=0), rtol=1e-4, atol=1e-5)
    assert not got[1].any() and got.dtype == np.float32
