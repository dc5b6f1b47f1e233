"""The keys of a run's random streams, which a resumed run draws from again."""

import types

import jax
import numpy as np
import pytest

from sleep_jax.phases.rng_streams import key_of
from sleep_jax.run_schedule import ScheduledPhase


@pytest.mark.parametrize(
    ("phase", "stream", "numbers"),
    [
        ("study", "rehearsals", (5, 3, 1)),
        ("merge", "updates", (5, 1, 4)),
        ("consolidate", "transaction", (5, 2)),
        ("write", "random_expert", (5, 3)),
        ("select", "adapters", (5, 1)),
        ("try", "row_order", (5, 4)),
        ("learn", "updates", (5, 2)),
    ],
)
def test_key_of_folds_in_the_numbers_of_its_stream(phase, stream, numbers):
    experiment = types.SimpleNamespace(config=types.SimpleNamespace(seed=7))
    key = jax.random.key(7)
    for number in numbers:
        key = jax.random.fold_in(key, number)
    same = key_of(experiment, ScheduledPhase(phase, phase, day=0, rng_stream=5), stream)
    np.testing.assert_array_equal(jax.random.key_data(same), jax.random.key_data(key))
