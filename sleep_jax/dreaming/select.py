"""Select: dreams whose gradient points where the context's does, plus a few at random (paper 4,
step 2).

    omega_i = cos(grad L_SFT(dream_i), grad L_SFT(target_i))

on the trial adapter at birth, where B = 0 and so only B has a gradient. The target is the context
itself.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sleep_jax.data.examples import Examples
from sleep_jax.dreaming.trial import TrialConfig
from sleep_jax.evals.likelihood import mean_nll
from sleep_jax.models.config import DecoderConfig


@functools.partial(jax.jit, static_argnames=("cfg", "trial"))
def importance(
    cfg: DecoderConfig, trial: TrialConfig, variables, lora, dreams: Examples, targets: Examples
):
    """Cosine of each dream's gradient with its target's, float32 [dreams].

    Args:
      cfg, trial: static; `trial.chunk` dreams are differentiated at a time.
      variables: the model, without `lora`.
      lora: the adapter at birth.
      dreams, targets: [dreams, rows, time] each; a dream and the context it is about.
    """

    def gradient(examples):
        g = jax.grad(lambda a: mean_nll(cfg, {**variables, "lora": a}, examples))(lora)
        return g, optax.tree.norm(g)

    def cosine(item):
        (g, g_norm), (t, t_norm) = gradient(item[0]), gradient(item[1])
        return optax.tree.vdot(g, t) / jnp.maximum(g_norm * t_norm, 1e-30)

    return jax.lax.map(cosine, (dreams, targets), batch_size=trial.chunk)


def select(
    scores: Sequence[float], documents: Sequence[int], top: int, random: int, seed: int
) -> list[int]:
    """Per document the `top` dreams by score and `random` others drawn uniformly, as sorted
    indices."""
    rng = np.random.default_rng(seed)
    scores, documents = np.asarray(scores), np.asarray(documents)
    chosen: list[int] = []
    for document in np.unique(documents):
        mine = np.flatnonzero(documents == document)
        ranked = mine[np.argsort(-scores[mine], kind="stable")]
        rest = ranked[top:]
        drawn = rng.choice(rest, size=min(random, len(rest)), replace=False)
        chosen += [int(i) for i in (*ranked[:top], *drawn)]
    return sorted(chosen)
