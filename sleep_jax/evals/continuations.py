"""Log-probabilities of continuations of many texts of any length, in batches of a few static
shapes."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from sleep_jax.data.batches import bucket, pad
from sleep_jax.data.examples import Examples
from sleep_jax.evals.likelihood import log_probs_and_greedy
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import spread_evenly, to_host

BATCH = 8  # texts that are scored at a time
MOST_TOKENS = 16_384  # of a batch with its padding, where it has more than one text
Tokens = Sequence[int]

scored_continuations = jax.jit(log_probs_and_greedy, static_argnames=("cfg",))


@dataclasses.dataclass(frozen=True)
class Score:
    """A continuation, scored.

    Attributes:
      log_probs: float32 [tokens], of each of its tokens, in nats.
      is_greedy: bool [tokens]: whether it is the likeliest one there.
    """

    log_probs: np.ndarray
    is_greedy: np.ndarray


def sorted_batches(lengths: Sequence[int], rows: int) -> Iterator[tuple[list[int], int, int]]:
    """Deals texts into batches, the longest first, so that few have another shape.

    Args:
      lengths: tokens of each text.
      rows: of a batch, at most; fewer where it would have more than `MOST_TOKENS`.

    Yields:
      (indices of the texts, rows, width): there may be fewer texts than rows, in the last batch of
      a width.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    rows, start = min(rows, len(lengths)), 0
    while start < len(order):
        width = bucket(lengths[order[start]])
        count = max(1, min(rows, MOST_TOKENS // width))
        yield order[start : start + count], count, width
        start += count


def continuation_scores(
    cfg: DecoderConfig,
    variables,
    texts: Sequence[tuple[Tokens, Tokens]],
    *,
    batch: int = BATCH,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[Score]:
    """Scores continuations.

    Args:
      cfg, variables: the model.
      texts: (text before, continuation) pairs; there is at least one token before.
      batch: texts that are scored at a time, at most.
      on_batch: called after every batch with the number of its texts.
    """
    whole = [[*before, *after] for before, after in texts]
    scores: list[Score | None] = [None] * len(whole)
    for chosen, rows, width in sorted_batches([*map(len, whole)], batch):
        filled = chosen + [chosen[0]] * (spread_evenly(rows) - len(chosen))
        tokens, mask = pad([whole[i] for i in filled], width)
        scored = mask > 0
        for row, i in enumerate(filled):
            scored[row, : len(texts[i][0])] = False
        examples = Examples(tokens=tokens, segment_ids=mask, mask=scored)
        log_probs, is_greedy = to_host(scored_continuations(cfg, variables, examples))
        for row, i in enumerate(chosen):
            part = slice(len(texts[i][0]), len(whole[i]))
            scores[i] = Score(log_probs[row, part], is_greedy[row, part])
        on_batch(len(chosen))
    return scores
