"""The document that a question is probably about: the one with most of its rarer words."""

import collections
import math
from collections.abc import Sequence

from sleep_jax.data.answers import content_words
from sleep_jax.data.documents import Document


def closest_document(question: str, documents: Sequence[Document]) -> int:
    """Index of the document that shares most content words with a question, each weighted by how
    few documents have it (ln((1 + documents) / (1 + of these with the word)) + 1); the first of
    equal ones.

    Args:
      question: any text.
      documents: one at least.
    """
    asked = content_words(question)
    words = [content_words(f"{x.title} {x.text}") & asked for x in documents]
    having = collections.Counter(word for shared in words for word in shared)
    weight = {w: math.log((1 + len(documents)) / (1 + n)) + 1 for w, n in having.items()}
    scores = [sum(weight[word] for word in shared) for shared in words]
    return scores.index(max(scores))
