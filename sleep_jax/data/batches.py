"""Padding, bucketing and packing: ragged token lists in, static shapes out."""

from collections.abc import Sequence

import numpy as np


def bucket(n: int, smallest: int = 16) -> int:
    """The smallest of the sizes 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, ... that is at least n.

    Four sizes an octave: few programs are compiled, and at most a fifth of a row is padding.

    Args:
      n: a length.
      smallest: the first size.
    """
    size = smallest
    while size < n:
        # The step is a quarter of the largest power of two that is at most the size.
        size += (1 << (size.bit_length() - 1)) // 4
    return size


def equal_batches(n: int, max_size: int) -> np.ndarray:
    """Indices of n items in batches of one size, [batches, size].

    Args:
      n: number of items.
      max_size: largest size of a batch.

    Returns:
      int [batches, size]; the last item is repeated to fill the last batch.
    """
    count = -(-n // max_size)
    size = -(-n // count)
    return np.minimum(np.arange(count * size), n - 1).reshape(count, size)


def pad(rows: Sequence[Sequence[int]], length: int, *, value: int = 0, side: str = "right"):
    """Stacks ragged rows into int32 [rows, length].

    Args:
      rows: token ids.
      length: of a padded row.
      value: of the padding.
      side: where the padding goes, `right` or `left`.

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


def pack(sizes: Sequence[Sequence[int]], capacity: Sequence[int]) -> list[list[int]]:
    """Packs items into rows, largest first, each into the fullest row that holds it (best fit).

    Args:
      sizes: per item one size for each capacity, e.g. (tokens, scored tokens); the first one
        orders.
      capacity: of a row, per kind of size.

    Returns:
      Per row the indices of its items.

    Raises:
      ValueError: an item is larger than the capacity.
    """
    capacity = np.asarray(capacity)
    sizes = np.asarray(sizes, int).reshape(-1, len(capacity))
    rows: list[list[int]] = []
    room = np.zeros((0, len(capacity)), int)
    for i in np.argsort(-sizes[:, 0], kind="stable"):
        if np.any(sizes[i] > capacity):
            raise ValueError(
                f"sequence {i} needs {tuple(map(int, sizes[i]))} tokens, a row holds "
                f"{tuple(map(int, capacity))}; raise the row length"
            )
        fits = np.flatnonzero(np.all(room >= sizes[i], axis=1))
        if fits.size:
            r = fits[np.argmin(room[fits, 0])]
        else:
            rows.append([])
            room = np.vstack([room, capacity])
            r = len(rows) - 1
        rows[r].append(int(i))
        room[r] -= sizes[i]
    return rows
