"""Selection: Top-k and random dreams of every document."""

import pytest

from sleep_jax.dreaming.select import SelectionConfig, select


def test_select_keeps_top_and_random_per_context():
    order = [1, 5, 2, 4, 3, 0]
    documents = [0, 0, 0, 1, 1, 1]
    assert select(order, documents, top=1, random=0, seed=0) == [1, 5]
    kept = select(order, documents, top=1, random=1, seed=0)
    assert {1, 5} < set(kept) and len(kept) == 4 and len(set(kept)) == 4
    assert select(order, documents, top=5, random=5, seed=0) == list(range(6))
    assert select([], [], top=1, random=1, seed=0) == []


def test_select_draws_uniformly_from_the_rest():
    draws = [select([0, 1, 2, 3], [0] * 4, top=1, random=1, seed=s)[-1] for s in range(600)]
    assert all(150 < draws.count(i) < 250 for i in (1, 2, 3)) and draws.count(0) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("measure", "cosin"), ("keep_top", -1), ("keep_random", -2), ("interaction", -0.5)],
)
def test_invalid_selection_settings_raise(field, value):
    with pytest.raises(ValueError, match=rf"dreaming\.{field}={value!r}"):
        SelectionConfig(**{field: value})


def test_selection_without_dreams_raises():
    with pytest.raises(ValueError, match=r"dreaming\.keep_top=0 and dreaming\.keep_random=0"):
        SelectionConfig(keep_top=0, keep_random=0)
