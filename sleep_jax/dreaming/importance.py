"""Importance: how much a dream is worth a trial, by a named measure (paper 4, step 2).

With g_i the gradient of dream i (`dreaming.gradients`) and t that of its target, the context:

cosine       <g_i, t> / (|g_i| |t|)
inner        <g_i, t>
norm         |g_i|, the paper to the letter; it favours garbled and short dreams
last_layer   the cosine of the gradients of the adapter's last layer only
greats       greedy: <g_i, t> - eta / k * sum of <g_i, g_j> over the dreams j chosen before, if k
             are kept: to second order, with the identity for the Hessian, what an update by the
             mean of the chosen dreams gains (GREATS; Wang et al. 2024, NeurIPS)
loss         the dream's mean negative log-likelihood a token
lexical      bag-of-words F1 of the dream and its context
random       uniform

A target is made of the context itself, never of test questions.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from sleep_jax.data.batches import bucket
from sleep_jax.data.examples import Examples
from sleep_jax.dreaming.gradients import dream_losses, gram_matrices
from sleep_jax.evals.metrics import f1
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import spread_evenly, to_host


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Dreams to choose from.

    Attributes:
      contexts: per dream the index of its context.
      texts: per dream its text.
      dreams: training examples of each dream, [dreams, rows, time].
      context_texts: per context its text.
      targets: training examples of each context, [contexts, rows, time].
    """

    contexts: Sequence[int]
    texts: Sequence[str]
    dreams: Examples
    context_texts: Sequence[str]
    targets: Examples


def cosine(gram: np.ndarray) -> np.ndarray:
    """Cosines with the target, [dreams]; 0 where a gradient is 0.

    Args:
      gram: inner products [1 + dreams, 1 + dreams], the target first.
    """
    norms = np.sqrt(np.diag(gram))
    return gram[0, 1:] / np.maximum(norms[0] * norms[1:], 1e-30)


def inner(gram: np.ndarray) -> np.ndarray:
    """Inner products with the target, [dreams], from a Gram matrix as for `cosine`."""
    return gram[0, 1:]


def norm(gram: np.ndarray) -> np.ndarray:
    """Gradient norms, [dreams], from a Gram matrix as for `cosine`."""
    return np.sqrt(np.diag(gram)[1:])


def greats(gram: np.ndarray, step: float) -> tuple[np.ndarray, list[int]]:
    """Greedy choice with interactions.

    Args:
      gram: as for `cosine`.
      step: eta / k, the factor on interactions.

    Returns:
      (gain of each dream when it was chosen [dreams], the dreams in the order of choice).
    """
    gains, order = gram[0, 1:].astype(np.float64), []
    remaining = np.ones(len(gains), bool)
    while remaining.any():
        # NaN is chosen last.
        best = int(np.argmax(np.where(remaining, np.nan_to_num(gains, nan=-np.inf), -np.inf)))
        best = best if remaining[best] else int(np.argmax(remaining))
        order.append(best)
        remaining[best] = False
        gains[remaining] -= step * gram[1 + best, 1:][remaining]
    return gains, order


# Functions of the Gram matrix of a context; scores [dreams].
BY_GRADIENT = {"cosine": cosine, "inner": inner, "norm": norm, "last_layer": cosine}
# Functions of the Gram matrix and `step`; (scores [dreams], the dreams in the order of choice).
GREEDY = {"greats": greats}


def _loss(cfg, microbatch, variables, candidates):
    return to_host(dream_losses(cfg, microbatch, variables, candidates.dreams))


def _lexical(candidates, seed):
    contexts = (candidates.context_texts[i] for i in candidates.contexts)
    return np.asarray([f1(text, context) for text, context in zip(candidates.texts, contexts)])


def _random(candidates, seed):
    return np.random.default_rng((seed[0], 1, seed[1])).random(len(candidates.texts))


# Functions of all candidates, with a model or without; scores [dreams].
BY_MODEL = {"loss": _loss}
WITHOUT_MODEL = {"lexical": _lexical, "random": _random}
MEASURES = (*BY_GRADIENT, *GREEDY, *BY_MODEL, *WITHOUT_MODEL)


def importance(
    measure: str,
    cfg: DecoderConfig,
    microbatch: int,
    variables,
    lora,
    candidates: Candidates,
    *,
    step: float,
    seed: tuple[int, int],
) -> tuple[np.ndarray, list[int]]:
    """Scores and ranks dreams.

    Args:
      measure: one of MEASURES.
      cfg: the decoder.
      microbatch: dreams on the accelerator at a time.
      variables: the current model, without `lora`.
      lora: the initial trial adapter.
      candidates: the dreams to rank.
      step: for `greats`, eta / k.
      seed: for `random`: (seed of the run, night).

    Returns:
      (importance [dreams], the dreams of all contexts; those of each context best first). NaN ranks
      last.

    Raises:
      ValueError: there is no such measure.
    """
    if measure not in MEASURES:
        raise ValueError(f"dreaming.measure={measure!r}; choose from {', '.join(MEASURES)}")
    if measure in WITHOUT_MODEL:
        scores = WITHOUT_MODEL[measure](candidates, seed)
    elif measure in BY_MODEL:
        scores = BY_MODEL[measure](cfg, microbatch, variables, candidates)
    else:
        return _by_gradient(measure, cfg, microbatch, variables, lora, candidates, step)
    return scores, _ranked(scores)


def _ranked(scores: np.ndarray) -> list[int]:
    return np.argsort(-scores, kind="stable").tolist()


def _by_gradient(measure, cfg, microbatch, variables, lora, candidates: Candidates, step: float):
    contexts, members = group_by_context(candidates.contexts)

    def grouped(x):
        x = np.asarray(x)[members]
        return np.where((members >= 0).reshape(*members.shape, *(1,) * (x.ndim - 2)), x, 0)

    dreams = jax.tree.map(grouped, candidates.dreams)
    targets = jax.tree.map(lambda x: np.asarray(x)[contexts], candidates.targets)
    is_last_only = measure == "last_layer"
    grams = gram_matrices(cfg, microbatch, variables, lora, dreams, targets, is_last_only)
    scores, chosen = np.zeros(len(candidates.texts)), []
    for gram, indices in zip(to_host(grams), members):
        indices = indices[indices >= 0]
        gram = gram[: 1 + len(indices), : 1 + len(indices)]
        if measure in GREEDY:
            scores[indices], order = GREEDY[measure](gram, step)
            chosen += indices[order].tolist()
        else:
            scores[indices] = BY_GRADIENT[measure](gram)
    return scores, chosen or _ranked(scores)


def group_by_context(contexts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Groups dreams by context.

    Args:
      contexts: per dream the index of its context.

    Returns:
      (contexts with dreams [c], indices of their dreams [c, n] padded with -1). n is a bucket, so
      that one dream more or less compiles no new program, and divides by the shards of a mesh.
    """
    present = np.unique(contexts)
    groups = [np.flatnonzero(np.asarray(contexts) == context) for context in present]
    width = spread_evenly(bucket(max(map(len, groups)), smallest=4))
    members = np.full((len(groups), width), -1)
    for row, indices in zip(members, groups):
        row[: len(indices)] = indices
    return present, members
