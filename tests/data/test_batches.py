"""Buckets, padding and packing."""

import numpy as np
import pytest

from sleep_jax.data.batches import bucket, equal_batches, pack, pad


def test_bucket_sizes():
    sizes = sorted({bucket(n) for n in range(1, 200)})
    assert sizes == [16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224]
    for n in range(200):
        size = bucket(n)
        assert size >= n and all(s < n for s in sizes if s < size)
        assert n < 16 or size - n < size / 5


def test_equal_batches_by_hand():
    assert equal_batches(5, 8).tolist() == [[0, 1, 2, 3, 4]]
    assert equal_batches(9, 8).tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 8]]
    assert equal_batches(4, 2).tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    "side, tokens, mask",
    [
        ("right", [[7, 8, 9], [5, 0, 0], [0, 0, 0]], [[1, 1, 1], [1, 0, 0], [0, 0, 0]]),
        ("left", [[7, 8, 9], [0, 0, 5], [0, 0, 0]], [[1, 1, 1], [0, 0, 1], [0, 0, 0]]),
    ],
)
def test_pad_by_hand(side, tokens, mask):
    got = pad([[7, 8, 9], [5], []], 3, side=side)
    np.testing.assert_array_equal(got[0], tokens)
    np.testing.assert_array_equal(got[1], mask)
    assert got[0].dtype == got[1].dtype == np.int32


def test_pad_value_and_too_long_row():
    np.testing.assert_array_equal(pad([[1]], 2, value=9)[0], [[1, 9]])
    with pytest.raises(ValueError, match="row 1 has 3 tokens, more than length=2; raise"):
        pad([[1], [1, 2, 3]], 2)


def test_pack_places_every_item_once_within_capacity():
    rng = np.random.default_rng(0)
    sizes = np.stack([rng.integers(1, 60, 200), rng.integers(1, 20, 200)], axis=1)
    rows = pack(sizes, (64, 24))
    assert sorted(i for row in rows for i in row) == list(range(200))
    for row in rows:
        assert row and (sizes[row].sum(axis=0) <= (64, 24)).all()
    # Best fit, largest first, needs at most 3/2 of the least conceivable number of rows or so.
    least = np.ceil(sizes.sum(axis=0) / (64, 24)).max()
    assert len(rows) <= 1.5 * least


def test_pack_by_hand():
    # 6 | 5 | 4 fits beside 6 (room 4) better than beside 5 (room 5), then 5 takes the other 5.
    assert pack([(4,), (6,), (5,), (5,)], (10,)) == [[1, 0], [2, 3]]
    # The second capacity binds.
    assert len(pack([(1, 3), (1, 3), (1, 3)], (10, 6))) == 2
    assert pack([(10, 6)], (10, 6)) == [[0]]


def test_pack_of_too_large_item_raises():
    with pytest.raises(
        ValueError, match=r"sequence 1 needs \(3, 7\) tokens, a row holds \(10, 6\)"
    ):
        pack([(1, 1), (3, 7)], (10, 6))


def test_pack_of_nothing_is_empty():
    assert pack([], (4, 2)) == []
