"""Examples: rows, segments and the mask of scored tokens."""

from sleep_jax.data.examples import make_examples

ITEMS = [[((1, 2), (3, 4)), ((5,), (6,))], [((7,), (8, 9))]]


def test_make_examples_masks_completions():
    got = make_examples(ITEMS)
    assert got.tokens.shape == (2, 1, 16)
    row = slice(0, 6)
    assert got.tokens[0, 0, row].tolist() == [1, 2, 3, 4, 5, 6]
    assert got.segment_ids[0, 0, row].tolist() == [1, 1, 1, 1, 2, 2]
    assert got.mask[0, 0, row].tolist() == [False, False, True, True, False, True]
    assert got.mask[1, 0].sum() == 2 and not got.mask[0, 0, 6:].any()


def test_make_examples_unpacked_has_one_sequence_per_row():
    got = make_examples(ITEMS, is_packed=False)
    assert got.tokens[:, :, :4].tolist() == [
        [[1, 2, 3, 4], [5, 6, 0, 0]],
        [[7, 8, 9, 0], [0, 0, 0, 0]],
    ]
    assert got.segment_ids.max() == 1 and got.segment_ids.sum() == 4 + 2 + 3
    assert got.mask.sum(-1).tolist() == [[2, 1], [2, 0]]
