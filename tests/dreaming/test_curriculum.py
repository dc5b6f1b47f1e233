"""Curriculum: recent documents first, then those answered worst, then random others."""

import pytest

from sleep_jax.data.documents import Document
from sleep_jax.dreaming.curriculum import (
    CurriculumConfig,
    DreamContext,
    draw_contexts,
    recollected_document,
)

TAU = {(0, 0): -1.0, (0, 1): -3.0, (1, 0): -2.0, (1, 1): -0.5, (2, 0): -4.0, (2, 1): -5.0}


def drawn(seed=0, **counts):
    return draw_contexts(CurriculumConfig(**counts), TAU, today=2, seed=seed)


def test_draw_contexts_orders_recent_weak_old():
    chosen = drawn(recent=0, weak=2, old=1)
    assert chosen[:4] == [
        DreamContext(2, 0, "recent", -4.0),
        DreamContext(2, 1, "recent", -5.0),
        DreamContext(0, 1, "weak", -3.0),
        DreamContext(1, 0, "weak", -2.0),
    ]
    [old] = chosen[4:]
    assert old.role == "old" and (old.day, old.document) in {(0, 0), (1, 1)}


def test_draw_contexts_takes_worst_recent_documents():
    assert drawn(recent=1, weak=0, old=0) == [DreamContext(2, 1, "recent", -5.0)]


def test_draw_contexts_ranks_unscored_documents_last():
    tau = {(0, 0): None, (0, 1): 7.0, (1, 0): None}
    chosen = draw_contexts(CurriculumConfig(weak=1, old=0), tau, today=1, seed=0)
    assert chosen == [DreamContext(1, 0, "recent"), DreamContext(0, 1, "weak", 7.0)]


def test_old_contexts_are_uniform_and_reproducible():
    rest = [(0, 0), (1, 0), (1, 1)]
    draws = [(x.day, x.document) for seed in range(600) for x in drawn(seed, weak=1, old=1)[3:]]
    assert all(150 < draws.count(x) < 250 for x in rest)
    assert drawn(5, old=2) == drawn(5, old=2)
    assert len(drawn(weak=9, old=9)) == len(TAU)


def test_recollected_document_holds_latest_dreams_that_fit():
    document = Document("a", "A title", "The text.")
    dreams = ["one two", "three", "four five"]

    def recollected(most):
        return recollected_document(document, dreams, lambda text: len(text.split()), most)

    assert recollected(5).text == "one two\nthree\nfour five"
    assert recollected(4).text == "three\nfour five"
    assert recollected(0).text == "four five"
    assert recollected(5).title == "A title" and document.text not in recollected(5).text


@pytest.mark.parametrize(
    ("field", "value"), [("recent", -1), ("weak", -1), ("old", -2), ("source", "txt")]
)
def test_invalid_curriculum_settings_raise(field, value):
    with pytest.raises(ValueError, match=rf"dreaming\.curriculum\.{field}={value!r}"):
        CurriculumConfig(**{field: value})
