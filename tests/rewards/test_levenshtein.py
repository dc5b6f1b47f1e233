"""Levenshtein distance and Eq. 4 against rapidfuzz and hand-computed values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from sleep_jax.rewards import levenshtein


def pack(sequences, width):
    """Rows padded with a token that also occurs in the text, so that leaks would show."""
    out = np.ones((len(sequences), width), np.int32)
    for row, sequence in zip(out, sequences):
        row[: len(sequence)] = sequence
    return jnp.asarray(out), jnp.asarray([len(s) for s in sequences], jnp.int32)


def pairs():
    rng = np.random.default_rng(0)
    sequences = []
    for vocabulary in (2, 3, 50):
        for _ in range(25):
            a = rng.integers(0, vocabulary, rng.integers(0, 14))
            b = rng.integers(0, vocabulary, rng.integers(0, 19))
            sequences.append((list(a), list(b)))
    base = list(range(12))
    sequences += [
        ([], []),
        ([], base),
        (base, []),
        (base, base),
        (base, base[1:] + [99]),  # a rotation: two edits, not twelve substitutions
        (base, [7, 7, 7, 7, *base]),
        (base[6:], base),
        (base, base[::-1]),
        ([1] * 13, [1] * 5),
        ([0, 1] * 6, [1, 0] * 6),
        ([0] * 13, [1] * 18),
    ]
    return sequences


PAIRS = pairs()
TRUE = np.array([Levenshtein.distance(a, b) for a, b in PAIRS])


@pytest.mark.parametrize("swap", [False, True])
def test_distance_without_band_equals_rapidfuzz(swap):
    a, b = pack([p[0] for p in PAIRS], 13), pack([p[1] for p in PAIRS], 18)
    if swap:
        a, b = b, a
    np.testing.assert_array_equal(jax.jit(levenshtein.distance)(*a, *b), TRUE)


def word_boundary_pairs():
    """Lengths around one and two words of 32 rows; runs and shifts make carries cross them."""
    rng = np.random.default_rng(1)
    lengths = (0, 1, 31, 32, 33, 63, 64, 65)
    sequences = []
    for n in lengths:
        text = list(rng.integers(0, 4, n))
        edited = [t if rng.random() < 0.8 else 9 for t in text]
        sequences += [
            (text, text),
            (text, edited),
            (text, text[7:] + [9] * 7),
            (text, [9] * 40 + text[:25]),
            (text, text[::-1]),
            ([0, 1] * (n // 2), [1, 0] * (n // 2)),
        ]
        sequences += [([5] * n, [5] * m) for m in lengths]
        sequences += [(text, list(rng.integers(0, 3, m))) for m in lengths]
    return sequences


@pytest.mark.parametrize("width", [72, 96])  # a part of the third word, all of it
def test_distance_across_words_equals_rapidfuzz(width):
    cases = word_boundary_pairs()
    true = [Levenshtein.distance(a, b) for a, b in cases]
    a, b = pack([p[0] for p in cases], width), pack([p[1] for p in cases], width)
    got = jax.jit(levenshtein.distance)
    np.testing.assert_array_equal(got(*a, *b), true)
    np.testing.assert_array_equal(got(*b, *a), true)


def test_distance_treats_all_token_ids_alike():
    """Ids that a padding could be made of count in the text and never past the lengths."""
    extremes = np.array([0, -1, -2, 2**31 - 1, -(2**31)], np.int32)
    rng = np.random.default_rng(2)
    a, b = rng.choice(extremes, (40, 35)), rng.choice(extremes, (40, 33))
    a_length, b_length = rng.integers(0, 36, 40), rng.integers(0, 34, 40)
    true = [
        Levenshtein.distance(x[:n].tolist(), y[:m].tolist())
        for x, n, y, m in zip(a, a_length, b, b_length)
    ]
    got = jax.jit(levenshtein.distance)(a, a_length, b, b_length)
    np.testing.assert_array_equal(got, true)


def test_distance_under_vmap_and_with_a_batch_of_one():
    cases = [p for p in word_boundary_pairs() if len(p[0]) == 33]
    true = [Levenshtein.distance(a, b) for a, b in cases]
    a, b = pack([p[0] for p in cases], 33), pack([p[1] for p in cases], 65)
    single = [x[:, None] for x in (*a, *b)]
    np.testing.assert_array_equal(jax.vmap(levenshtein.distance)(*single)[:, 0], true)
    one = levenshtein.distance(*(x[0] for x in single))
    np.testing.assert_array_equal(one, true[:1])


@pytest.mark.parametrize("band", [0, 1, 2, 5, 9, 13, 18, 40])
def test_distance_with_band_saturates_above_it(band):
    a, b = pack([p[0] for p in PAIRS], 13), pack([p[1] for p in PAIRS], 18)
    got = jax.jit(functools.partial(levenshtein.distance, band=band))(*a, *b)
    np.testing.assert_array_equal(got, np.minimum(TRUE, band + 1))
    assert got.dtype == jnp.int32


def test_distance_and_similarity_by_hand():
    kitten, sitting = ([ord(c) for c in w] for w in ("kitten", "sitting"))
    a, b = pack([kitten, [5]], 8), pack([sitting, [6]], 8)
    np.testing.assert_array_equal(levenshtein.distance(*a, *b), [3, 1])
    np.testing.assert_allclose(
        levenshtein.similarity(*a, *b, threshold=0.5), [1 - 3 / 7, 0.0], rtol=1e-6
    )


def test_distance_and_similarity_of_zero_width():
    empty, full = pack([[], []], 0), pack([[1, 2], []], 3)
    np.testing.assert_array_equal(levenshtein.distance(*empty, *full), [2, 0])
    np.testing.assert_array_equal(levenshtein.distance(*full, *empty), [2, 0])
    np.testing.assert_array_equal(levenshtein.similarity(*empty, *empty), [1, 1])


def test_similarity_threshold_is_inclusive():
    a, b = pack([[0] * 10] * 3, 16), pack([[0] * 7 + [9] * 3] * 3, 16)  # z = 3, length 10
    for threshold, expected in ((0.3, 0.7), (0.29, 0.0), (0.31, 0.7)):
        got = levenshtein.similarity(*a, *b, threshold=threshold)
        np.testing.assert_allclose(got, [expected] * 3, rtol=1e-6)
    for threshold, expected in ((3, 0.7), (2, 0.0), (2.9, 0.0), (100, 0.7)):
        got = levenshtein.similarity(*a, *b, threshold=threshold, relative=False)
        np.testing.assert_allclose(got, [expected] * 3, rtol=1e-6)


@pytest.mark.parametrize(("share", "whole"), [(1, 10), (3, 10), (7, 10), (1, 3), (1, 7)])
def test_similarity_threshold_is_inclusive_despite_rounding(share, whole):
    """z0 = share / whole * length is a whole number of edits: z0 counts, z0 + 1 does not."""
    lengths = range(whole, 211, whole)
    pairs = [(n, n // whole * share + more) for n in lengths for more in (0, 1)]
    a = pack([[0] * n for n, _ in pairs], 210)
    b = pack([[9] * z + [0] * (n - z) for n, z in pairs], 210)
    got = levenshtein.similarity(*a, *b, threshold=share / whole)
    want = [0 if i % 2 else 1 - z / n for i, (n, z) in enumerate(pairs)]
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_similarity_equals_equation_4():
    a, b = pack([p[0] for p in PAIRS], 13), pack([p[1] for p in PAIRS], 18)
    longest = np.array([max(len(x), len(y)) for x, y in PAIRS])
    for threshold in (0.0, 0.25, 0.5, 1.0):
        got = jax.jit(functools.partial(levenshtein.similarity, threshold=threshold))(*a, *b)
        want = np.where(threshold * longest >= TRUE, 1 - TRUE / np.maximum(longest, 1), 0)
        np.testing.assert_allclose(got, want, atol=1e-6)
        assert got.dtype == jnp.float32 and bool(jnp.all(jnp.isfinite(got)))


def test_similarity_of_empty_sequences():
    a, b = pack([[], [], [4, 5]], 4), pack([[], [4, 5], []], 4)
    np.testing.assert_array_equal(levenshtein.similarity(*a, *b), [1, 0, 0])


def test_negative_band_or_threshold_is_rejected():
    a = pack([[1]], 2)
    with pytest.raises(ValueError, match="band=-1"):
        levenshtein.distance(*a, *a, band=-1)
    with pytest.raises(ValueError, match=r"threshold=-0\.5"):
        levenshtein.similarity(*a, *a, threshold=-0.5)
