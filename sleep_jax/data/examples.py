"""Token sequences to learn from or to score, as rows of static shape: one set of rows an item."""

from collections.abc import Sequence

import flax.struct
import jax
import numpy as np

from sleep_jax.data.batches import bucket, pack

MAX_ROW = 512  # tokens; an item's sequences share rows of at most this length
PromptCompletion = tuple[
    tuple[int, ...], tuple[int, ...]
]  # what is given and what is scored after it


@flax.struct.dataclass
class Examples:
    """Token sequences with the positions that count.

    Attributes:
      tokens: int32 [..., rows, time].
      segment_ids: int32 [..., rows, time]; 0 is padding.
      mask: bool [..., rows, time]; true on tokens whose prediction is scored (never a row's first).
    """

    tokens: jax.Array
    segment_ids: jax.Array
    mask: jax.Array


def make_examples(
    items: Sequence[Sequence[PromptCompletion]], *, is_packed: bool = True
) -> Examples:
    """Every item's sequences in the same number of rows: `Examples` [items, rows, time].

    Args:
      items: per item its sequences.
      is_packed: sequences share rows; else each has a row of its own, in order.
    """
    longest = max(len(given) + len(scored) for item in items for given, scored in item)
    time = bucket(longest)
    if is_packed:
        whole = bucket(max(sum(len(given) + len(scored) for given, scored in i) for i in items))
        time = max(min(whole, MAX_ROW), time)
        packed = [pack([(len(g) + len(s),) for g, s in item], (time,)) for item in items]
    else:
        packed = [[[j] for j in range(len(item))] for item in items]
    shape = (len(items), max(map(len, packed)), time)
    tokens, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    mask = np.zeros(shape, bool)
    for i, item in enumerate(items):
        for row, members in enumerate(packed[i]):
            t = 0
            for segment, j in enumerate(members, start=1):
                given, scored = item[j]
                n = len(given) + len(scored)
                tokens[i, row, t : t + n] = (*given, *scored)
                segments[i, row, t : t + n] = segment
                mask[i, row, t + len(given) : t + n] = True
                t += n
    return Examples(tokens=tokens, segment_ids=segments, mask=mask)
