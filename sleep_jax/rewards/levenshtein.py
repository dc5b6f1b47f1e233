"""Token-level Levenshtein distance on device, and r_abs of Eq. 4 ("Language Models Need Sleep").

D[i, j] is the distance of a's first i tokens from b's first j. The dynamic programme stores the
differences of neighbouring entries as bits, 32 rows to a word: Myers, "A fast bit-vector algorithm
for approximate string matching based on dynamic programming" (1999), with the names and formulas of
Hyyrö, "A bit-vector algorithm for computing Levenshtein and Damerau edit distances" (2003).
"""

import jax
import jax.numpy as jnp
from jax import lax

_WORD = 32  # rows of D to a word: JAX has 64-bit integers only on request, TPUs emulate them


def _pack(bits: jax.Array) -> jax.Array:
    """Packs bits [_WORD, ...], the lowest first, into words [...]."""
    places = jnp.arange(_WORD, dtype=jnp.uint32).reshape(-1, *[1] * (bits.ndim - 1))
    return jnp.sum(bits.astype(jnp.uint32) << places, axis=0, dtype=jnp.uint32)


def _shift_down(first: jax.Array | int, words: jax.Array) -> jax.Array:
    """Moves every word of [batch, words] one place down; `first` enters at the top."""
    top = jnp.broadcast_to(jnp.asarray(first, words.dtype), words.shape[:1])
    return jnp.concatenate([top[:, None], words[:, :-1]], axis=1)


def distance(
    a: jax.Array,
    a_length: jax.Array,
    b: jax.Array,
    b_length: jax.Array,
    *,
    band: int | None = None,
) -> jax.Array:
    """Fewest insertions, deletions and substitutions that turn each `a` into its `b`.

    A column of D depends on the one before it and, within the column, each word on the one above.
    So words advance as a wavefront: in step t, word w computes column t - w, from b's token and the
    horizontal difference that the word above produced in step t - 1. That is n + m / 32 steps.

    Args:
      a: [batch, m] int token ids, of any value; entries from `a_length` on are ignored.
      a_length: [batch] int, each in [0, m].
      b: [batch, n] int token ids; entries from `b_length` on are ignored.
      b_length: [batch] int, each in [0, n].
      band: static; distances up to and including `band` are exact, larger ones are `band + 1`. It
        saves no work, since with a band of half the length nearly all words are near the diagonal.
        None: always exact.

    Returns:
      [batch] int32.

    Raises:
      ValueError: `band` is negative.
    """
    if band is not None and band < 0:
        raise ValueError(f"band={band} is negative; give the largest distance that must be exact")
    batch, m = a.shape
    words = max(1, -(-m // _WORD))
    rows = jnp.arange(_WORD * words).reshape(words, _WORD).T[:, None]  # [32, 1, words]
    # Rows from a_length on do not matter: no carry or shift goes from a row to one above it.
    a = jnp.pad(a, ((0, 0), (0, _WORD * words - m))).reshape(batch, words, _WORD)
    a = a.transpose(2, 0, 1)  # [32, batch, words]
    b = jnp.pad(b, ((0, 0), (0, words - 1)))  # the last word's last column comes words - 1 later

    def advance(state, step):
        # vp, vn: where D[i, j] - D[i - 1, j] is +1, -1. hp, hn: where D[i, j] - D[i, j - 1] is.
        vp, vn, hp_out, hn_out, token = state
        t, next_token = step
        token = _shift_down(next_token, token)
        hp_in, hn_in = _shift_down(1, hp_out), _shift_down(0, hn_out)  # D[0, j] = j grows by one
        match = _pack(a == token) | hn_in
        d0 = (((match & vp) + vp) ^ vp) | match | vn  # where D[i, j] equals D[i - 1, j - 1]
        hp, hn = vn | ~(d0 | vp), vp & d0
        hp_out, hn_out = hp >> (_WORD - 1), hn >> (_WORD - 1)
        hp, hn = hp << 1 | hp_in, hn << 1 | hn_in
        column = t - jnp.arange(words)
        # A word changes only within its columns; after the last it keeps the result.
        is_active = (column >= 0) & (column < b_length[:, None])
        vp, vn = jnp.where(is_active, hn | ~(d0 | hp), vp), jnp.where(is_active, hp & d0, vn)
        return (vp, vn, hp_out, hn_out, token), None

    zeros = jnp.zeros((batch, words), jnp.uint32)
    start = (~zeros, zeros, zeros, zeros, jnp.zeros((batch, words), b.dtype))  # D[i, 0] = i
    (vp, vn, *_), _ = lax.scan(advance, start, (jnp.arange(b.shape[1]), b.T))

    # D[0, b_length] = b_length; the vertical differences lead down from there to row a_length.
    inside = _pack(rows < a_length[:, None])
    rises, falls = lax.population_count(vp & inside), lax.population_count(vn & inside)
    z = b_length + jnp.sum(rises.astype(jnp.int32) - falls.astype(jnp.int32), axis=1)
    return (z if band is None else jnp.minimum(z, band + 1)).astype(jnp.int32)


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
        The limit is inclusive.
      relative: static; see `threshold`.

    Returns:
      [batch] float32 in [0, 1]; it has no gradient.

    Raises:
      ValueError: `threshold` is negative.
    """
    if threshold < 0:
        raise ValueError(f"threshold={threshold} is negative; z0 counts edits, or a share of them")
    rounding = 1e-3  # keeps the limit inclusive where threshold * length is rounded down
    longest = jnp.maximum(a_length, b_length)
    limit = threshold * longest + rounding if relative else threshold
    z = distance(a, a_length, b, b_length)
    reward = 1.0 - z / jnp.maximum(longest, 1)
    return jnp.where(z <= limit, reward, 0.0).astype(jnp.float32)
