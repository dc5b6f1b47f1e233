"""Importance: which dreams are worth a trial, by a named measure (paper 4, step 2).

With g_i the gradient of dream i (`dreaming.gradients`) and t that of its context, the target:

cosine       <g_i, t> / (|g_i| |t|)
inner        <g_i, t>
norm         |g_i|, the paper to the letter; it favours the garbled and the short
last_layer   the cosine of the adapter's last layer alone
greats       greedy: <g_i, t> - eta / k * sum over those chosen before of <g_i, g_j>, k to be kept.
             The gain of an update by the mean of the chosen to second order, with the identity for
             the Hessian (GREATS; Wang et al. 2024, NeurIPS)
loss         the dream's mean negative log-likelihood a token
lexical      bag-of-words F1 of the dream and its context
random       none

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
      texts: per dream its words.
      dreams: what each one is learnt as, [dreams, rows, time].
      pages: per context its words.
      targets: what each context is learnt as, [contexts, rows, time].
    """

    contexts: Sequence[int]
    texts: Sequence[str]
    dreams: Examples
    pages: Sequence[str]
    targets: Examples


def cosine(gram: np.ndarray) -> np.ndarray:
    """Cosines to the target [dreams], from inner products [1 + dreams, 1 + dreams]; 0 where a
    gradient is 0."""
    norms = np.sqrt(np.diag(gram))
    return gram[0, 1:] / np.maximum(norms[0] * norms[1:], 1e-30)


def inner(gram: np.ndarray) -> np.ndarray:
    """Inner products with the target, [dreams]."""
    return gram[0, 1:]


def norm(gram: np.ndarray) -> np.ndarray:
    """Norms [dreams]."""
    return np.sqrt(np.diag(gram)[1:])


def greats(gram: np.ndarray, step: float) -> tuple[np.ndarray, list[int]]:
    """Greedy choice with interactions.

    Args:
      gram: inner products [1 + dreams, 1 + dreams], the target first.
      step: eta / k, the factor on interactions.

    Returns:
      (gain of each dream when it was chosen [dreams], the dreams in the order of choice).
    """
    gains, order = gram[0, 1:].astype(np.float64), []
    left = np.ones(len(gains), bool)
    while left.any():
        # A gain that is no number is chosen last.
        best = int(np.argmax(np.where(left, np.nan_to_num(gains, nan=-np.inf), -np.inf)))
        best = best if left[best] else int(np.argmax(left))
        order.append(best)
        left[best] = False
        gains[left] -= step * gram[1 + best, 1:][left]
    return gains, order


# Scores [dreams] from a context's inner products.
BY_GRADIENT = {"cosine": cosine, "inner": inner, "norm": norm, "last_layer": cosine}
# From these and `step`: (scores [dreams], the dreams in the order of choice).
GREEDY = {"greats": greats}


def _loss(cfg, microbatch, variables, candidates):
    return to_host(dream_losses(cfg, microbatch, variables, candidates.dreams))


def _lexical(candidates, seed):
    pages = (candidates.pages[i] for i in candidates.contexts)
    return np.asarray([f1(text, page) for text, page in zip(candidates.texts, pages)])


def _random(candidates, seed):
    return np.random.default_rng((seed[0], 1, seed[1])).random(len(candidates.texts))


# Scores [dreams] of all dreams at once, by the model or without one.
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
      microbatch: dreams in the accelerator at a time.
      variables: the model as it is now, without `lora`.
      lora: the trial adapter at birth.
      candidates: what to rank.
      step: of `greats`, eta / k.
      seed: of `random`: of the run, and of the night.

    Returns:
      (importance [dreams], the dreams of every context best first). What is no number ranks last.

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
    for gram, mine in zip(to_host(grams), members):
        mine = mine[mine >= 0]
        gram = gram[: 1 + len(mine), : 1 + len(mine)]
        if measure in GREEDY:
            scores[mine], order = GREEDY[measure](gram, step)
            chosen += mine[order].tolist()
        else:
            scores[mine] = BY_GRADIENT[measure](gram)
    return scores, chosen or _ranked(scores)


def group_by_context(contexts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The dreams of every context side by side.

    Args:
      contexts: per dream the index of its context.

    Returns:
      (the contexts that have dreams [c], their dreams [c, most] filled up with -1). `most` is a
      bucket, so that a dream more or less is the same program, and as many for every shard of a
      mesh.
    """
    present = np.unique(contexts)
    rows = [np.flatnonzero(np.asarray(contexts) == context) for context in present]
    most = spread_evenly(bucket(max(map(len, rows)), smallest=4))
    members = np.full((len(rows), most), -1)
    for row, mine in zip(members, rows):
        row[: len(mine)] = mine
    return present, members
