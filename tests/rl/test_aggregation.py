"""Sums over sequences and over the batch by hand, in rows and packed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.rl import aggregation
from sleep_jax.rl.aggregation import sequence_sum

aggregate = jax.jit(aggregation.aggregate, static_argnames=("aggregation", "length"))

X = jnp.array([[1.0, 2.0, 3.0], [10.0, jnp.nan, 30.0], [jnp.nan] * 3])
X_MASK = jnp.array([[1, 1, 1], [1, 0, 1], [0, 0, 0]])


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({}, (46, 5)),
        ({"aggregation": "sequence"}, (2 + 20, 2)),
        ({"aggregation": "constant", "length": 8}, (46, 16)),
    ],
)
def test_aggregate_by_hand_in_rows_and_packed(options, want):
    # The row without a token counts nowhere.
    np.testing.assert_allclose(aggregate(X, X_MASK, **options), want, rtol=1e-6)
    packed = jnp.array([[0, 0, 0, 1, 1, 1, 2, 2, 2]])
    got = aggregate(X.reshape(1, 9), X_MASK.reshape(1, 9), sequences=packed, **options)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_sequence_sum_in_rows_and_packed():
    values = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(sequence_sum(values), [[3] * 3, [12] * 3])
    across = jnp.array([[0, 0, 4], [4, 4, 1]])
    np.testing.assert_array_equal(sequence_sum(values, across), [[1, 1, 9], [9, 9, 5]])


@pytest.mark.parametrize("length", [None, 0])
def test_constant_aggregation_without_length_is_rejected(length):
    with pytest.raises(ValueError, match=f"length={length}; aggregation='constant' divides by it"):
        aggregate(X, X_MASK, aggregation="constant", length=length)
