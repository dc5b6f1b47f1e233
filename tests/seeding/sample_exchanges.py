"""A few random exchanges, and the shape of a batch that holds some of them."""

import numpy as np

from sleep_jax.seeding.sequences import BatchShape, Exchange

RNG = np.random.default_rng(0)
SHAPE = BatchShape(batch_size=2, max_length=24, max_target_length=16)


def tokens(n):
    return tuple(RNG.integers(3, 97, n).tolist())


def exchange(n, document=0, kind="answer"):
    return Exchange(document, tokens(3), tokens(4), tokens(n), kind)


EXCHANGES = [
    exchange(8),
    exchange(6, 1),
    exchange(10, 0, "recite"),
    exchange(7, None, "rehearse"),
    exchange(5, 1),
]
