"""Hidden states for which a bfloat16 head is nearly certain of one token."""

import jax.numpy as jnp
import numpy as np

WIDTH, VOCAB, CERTAIN = 16, 500, 3
HEAD = jnp.asarray(np.random.default_rng(0).normal(size=(WIDTH, VOCAB)), jnp.bfloat16)


def softmax(hidden, head=HEAD):
    """The distribution of a hidden state [d], float64 [vocab]."""
    logits = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64)
    return np.exp(logits - np.logaddexp.reduce(logits))


def near_certain(p, seed=1):
    """(hidden [d], head [d, vocab]): the probability of token CERTAIN is p, up to the rounding of
    the hidden state to bfloat16.
    """
    start = np.random.default_rng(seed).normal(size=WIDTH) * 0.1
    direction = np.asarray(HEAD[:, CERTAIN], np.float64)
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        is_below = softmax(start + middle * direction)[CERTAIN] < p
        low, high = (middle, high) if is_below else (low, middle)
    hidden = start + high * direction
    return jnp.asarray(jnp.asarray(hidden, jnp.bfloat16), jnp.float32), HEAD
