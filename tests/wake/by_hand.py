"""Eq. 2 by hand: the loss of a stretch of text, its gradient, one update; and how trees compare."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.memory.slots import put_wake
from sleep_jax.models.decoder import Decoder, lm_logits


@functools.partial(jax.jit, static_argnames="cfg")
def _surprise(cfg, base, wake, tokens):
    variables = base | {"memory": put_wake(base["memory"], wake)}
    logits = lm_logits(cfg, base["params"], Decoder(cfg).apply(variables, tokens[None]))[0, :-1]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[1:, None], 1)[:, 0]


@functools.partial(jax.jit, static_argnames="cfg")
def _gradient(cfg, base, wake, tokens, mask):
    return jax.grad(lambda wake: (mask * _surprise(cfg, base, wake, tokens)).sum())(wake)


def filled_up(tokens):
    """To one length; nothing sees what comes later."""
    return np.pad(tokens, (0, 49 - len(tokens)))


def surprise(cfg, base, wake, tokens):
    """-log p of tokens [1:] given those before: one pass of the plain decoder, without a cache."""
    return np.asarray(_surprise(cfg, base, wake, filled_up(tokens)))[: len(tokens) - 1]


def gradient_by_hand(cfg, base, wake, tokens):
    """d/d wake of their sum."""
    mask = (np.arange(48) < len(tokens) - 1).astype(np.float32)
    return _gradient(cfg, base, wake, filled_up(tokens), mask)


def updated_by_hand(weights, gradient, scored, rate, clip):
    """(w - eta clip(mean gradient), is clipped) of one level."""
    mean = {name: np.asarray(g) / scored for name, g in gradient.items()}
    norm = np.sqrt(sum((g**2).sum() for g in mean.values()))
    scale = rate * min(1, clip / norm)
    return {name: w - scale * mean[name] for name, w in weights.items()}, norm > clip


def same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def close(tree, other, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), tree, other)


def differ(tree, other):
    """Every leaf has changed."""
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x != y).any()), tree, other)))
