"""Hidden states that make a bfloat16 head nearly certain of one token, for tests of gradients
there."""

import jax.numpy as jnp
import numpy as np

WIDTH, VOCAB, CERTAIN = 16, 500, 3
HEAD = jnp.asarray(np.random.default_rng(0).normal(size=(WIDTH, VOCAB)), jnp.bfloat16)


def softmax(hidden, head=HEAD):
    """The distribution of a hidden state [d], float64 [vocab]."""
    logits = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64)
    return np.exp(logits - np.logaddexp.reduce(logits))


def near_certainty(p, seed=1):
    """(hidden [d], head [d, vocab]): the probability of token CERTAIN is p, to within the narrow
    type that the hidden state is rounded to."""
    start = np.random.default_rng(seed).normal(size=WIDTH) * 0.1
    towards = np.asarray(HEAD[:, CERTAIN], np.float64)
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        is_below = softmax(start + middle * towards)[CERTAIN] < p
        low, high = (middle, high) if is_below else (low, middle)
    hidden = start + high * towards
    return jnp.asarray(jnp.asarray(hidden, jnp.bfloat16), jnp.float32), HEAD
