"""The one place that pads, buckets and packs: ragged token lists in, static shapes out."""

from collections.abc import Sequence

import numpy as np


def bucket(n: int, smallest: int = 16) -> int:
    """The next of the sizes 16, 24, 32, 48, 64, 96, ... that holds n, so that few programs are ever compiled."""
    size = smallest
    while size < n:
        size = size * 3 // 2 if (size & (size - 1)) == 0 else size * 4 // 3
    return size


def pad(rows: Sequence[Sequence[int]], length: int, *, value: int = 0, side: str = "right"):
    """Stacks ragged rows into int32 [rows, length].

    Returns:
      (tokens, mask): the padded tokens and int32 [rows, length] that is 1 on real tokens.

    Raises:
      ValueError: a row is longer than `length`.
    """
    tokens = np.full((len(rows), length), value, np.int32)
    mask = np.zeros((len(rows), length), np.int32)
    for i, row in enumerate(rows):
        n = len(row)
        if n > length:
            raise ValueError(f"row {i} has {n} tokens, more than length={length}; raise the length")
        where = slice(0, n) if side == "right" else slice(length - n, length)
        tokens[i, where] = row
        mask[i, where] = 1
    return tokens, mask


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Packs items into rows of `capacity` tokens, longest first into the fullest row that holds it (best fit).

    Returns:
      Per row the indices of its items.

    Raises:
      ValueError: an item is longer than a row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[i] > capacity:
            raise ValueError(
                f"sequence {i} has {lengths[i]} tokens, more than a row of {capacity}; raise the row length"
            )
        fits = [r for r in range(len(rows)) if room[r] >= lengths[i]]
        if fits:
            r = min(fits, key=lambda r: room[r])
        else:
            rows.append([])
            room.append(capacity)
            r = len(rows) - 1
        rows[r].append(i)
        room[r] -= lengths[i]
    return rows
