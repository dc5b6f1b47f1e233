"""The rows in which a level's inputs are computed."""

import numpy as np

from sleep_jax.seeding.level_inputs import INPUT_ROWS, input_calls, input_rows
from sleep_jax.seeding.sequences import Exchange


def exchange(*tokens):
    return Exchange(None, tokens[:1], (9, 9, 9), tokens[1:], "answer")


def test_input_rows_packs_the_student_side_by_hand():
    given = [exchange(1, 2), exchange(3, 4, 5, 6, 7, 8), exchange(9, 10, 11)]
    [(tokens, segment_ids)] = input_rows(given, 5)
    np.testing.assert_array_equal(tokens, [[3, 4, 5, 6, 7], [9, 10, 11, 1, 2], [0] * 5, [0] * 5])
    np.testing.assert_array_equal(segment_ids, [[1] * 5, [1, 1, 1, 2, 2], [0] * 5, [0] * 5])


def test_input_calls_counts_what_input_rows_yields():
    for count in (0, 1, INPUT_ROWS, INPUT_ROWS + 1, 23):
        given = [exchange(*range(1, 5 + i % 3)) for i in range(count)]
        assert input_calls(given, 8) == len([*input_rows(given, 8)])
    assert input_calls([], 8) == 0
