"""Token-level Levenshtein distance on device, and r_abs of Eq. 4 ("Language Models Need Sleep").

Row-by-row dynamic programme over a whole batch. A row is stored by diagonal offset j - i, so a
band around the main diagonal is a fixed-width array and costs O(m * band) instead of O(m * n).
"""

import jax
import jax.numpy as jnp
from jax import lax

_UNREACHABLE = 1 << 28  # larger than any distance; adding a sequence length cannot overflow int32


def _shift_left(row: jax.Array) -> jax.Array:
    """Entry o becomes entry o + 1 of the input; the last one is unreachable."""
    return jnp.concatenate([row[:, 1:], jnp.full_like(row[:, :1], _UNREACHABLE)], axis=1)


def distance(
    a: jax.Array,
    a_length: jax.Array,
    b: jax.Array,
    b_length: jax.Array,
    *,
    band: int | None = None,
) -> jax.Array:
    """Fewest insertions, deletions and substitutions that turn each `a` into its `b`.

    Args:
      a: [batch, m] int token ids; entries from `a_length` on are ignored.
      a_length: [batch] int, each in [0, m].
      b: [batch, n] int token ids; entries from `b_length` on are ignored.
      b_length: [batch] int, each in [0, n].
      band: static; distances up to and including `band` are exact and larger ones come back as
        `band + 1`, because a path of cost z never leaves |i - j| <= z. None: always exact.

    Returns:
      [batch] int32.

    Raises:
      ValueError: if `band` is negative.
    """
    m, n = a.shape[1], b.shape[1]
    if band is None:
        band = max(m, n)
    if band < 0:
        raise ValueError(f"band={band} is negative; give the largest distance that must be exact")
    below, above = min(band, m), min(band, n)
    offsets = jnp.arange(-below, above + 1)  # j - i of each entry of a row
    width = below + above + 1

    # Entry o of row i reads token b[i + o - below - 1]; the padding keeps that slice in bounds.
    # Padded entries lie at j <= 0, where the diagonal is unreachable, or past j = n, never read.
    b_padded = jnp.pad(b, ((0, 0), (below + 1, m + above)))
    first_row = jnp.where(offsets >= 0, offsets, _UNREACHABLE).astype(jnp.int32)
    first_row = jnp.broadcast_to(first_row, (a.shape[0], width))

    def next_row(row, step):
        i, token = step
        window = lax.dynamic_slice_in_dim(b_padded, i, width, axis=1)
        diagonal = row + (token[:, None] != window)
        delete = _shift_left(row) + 1
        best = jnp.minimum(diagonal, delete)
        # An insertion costs one per step to the right: a running minimum, not a second scan.
        best = lax.cummin(best - offsets, axis=1) + offsets
        return jnp.where((i <= a_length)[:, None], best, row).astype(jnp.int32), None

    row, _ = lax.scan(next_row, first_row, (jnp.arange(1, m + 1), a.T))
    last = b_length - a_length + below
    value = jnp.take_along_axis(row, jnp.clip(last, 0, width - 1)[:, None], axis=1)[:, 0]
    inside = (last >= 0) & (last < width)
    return jnp.where(inside, jnp.minimum(value, band + 1), band + 1).astype(jnp.int32)


def similarity(
    a: jax.Array,
    a_length: jax.Array,
    b: jax.Array,
    b_length: jax.Array,
    *,
    threshold: float = 0.5,
    relative: bool = True,
) -> jax.Array:
    """r_abs of Eq. 4: 1 - z / max(|a|, |b|) where z <= z0, else 0; two empty sequences give 1.

    Args:
      a: [batch, m] int token ids of the student's continuations, EOS and pads past `a_length`.
      a_length: [batch] int.
      b: [batch, n] int token ids of the teacher's continuations.
      b_length: [batch] int.
      threshold: static. z0 is `threshold * max(|a|, |b|)`, or `threshold` edits if not `relative`.
        The limit is inclusive. It also bounds the work: the distance is banded to z0.
      relative: static; see `threshold`.

    Returns:
      [batch] float32 in [0, 1]; it has no gradient.

    Raises:
      ValueError: if `threshold` is negative.
    """
    if threshold < 0:
        raise ValueError(f"threshold={threshold} is negative; z0 counts edits, or a share of them")
    rounding = 1e-3  # z is a whole number: keeps 'inclusive' true when threshold * length rounds
    longest = jnp.maximum(a_length, b_length)
    capacity = max(a.shape[1], b.shape[1])
    limit = threshold * longest + rounding if relative else threshold + rounding
    band = min(int(threshold * capacity + rounding) if relative else int(threshold), capacity)
    z = distance(a, a_length, b, b_length, band=band)
    kept = 1.0 - z / jnp.maximum(longest, 1)
    return jnp.where((z <= band) & (z <= limit), kept, 0.0).astype(jnp.float32)
