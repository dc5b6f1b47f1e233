"""Token sequences to learn from or to score, in rows of static shape."""

from collections.abc import Sequence

import flax.struct
import jax
import numpy as np

from sleep_jax.data.batches import bucket, pack

MAX_PACKED_ROW = 512  # tokens; longest row that several sequences share
PromptCompletion = tuple[tuple[int, ...], tuple[int, ...]]  # token ids; the completion is scored


@flax.struct.dataclass
class Examples:
    """Rows of token sequences, with a mask of the tokens that are scored.

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
    """Puts the sequences of every item into the same number of rows.

    Args:
      items: per item its (prompt, completion) pairs.
      is_packed: several sequences share a row; else each has its own row, in order.

    Returns:
      `Examples` [items, rows, time].
    """
    longest = max(len(prompt) + len(completion) for item in items for prompt, completion in item)
    time = bucket(longest)
    if is_packed:
        whole = bucket(
            max(sum(len(prompt) + len(completion) for prompt, completion in i) for i in items)
        )
        time = max(min(whole, MAX_PACKED_ROW), time)
        packed = [pack([(len(p) + len(c),) for p, c in item], (time,)) for item in items]
    else:
        packed = [[[j] for j in range(len(item))] for item in items]
    shape = (len(items), max(map(len, packed)), time)
    tokens, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    mask = np.zeros(shape, bool)
    for i, item in enumerate(items):
        for row, members in enumerate(packed[i]):
            t = 0
            for segment, j in enumerate(members, start=1):
                prompt, completion = item[j]
                n = len(prompt) + len(completion)
                tokens[i, row, t : t + n] = (*prompt, *completion)
                segments[i, row, t : t + n] = segment
                mask[i, row, t + len(prompt) : t + n] = True
                t += n
    return Examples(tokens=tokens, segment_ids=segments, mask=mask)
