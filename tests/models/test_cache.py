"""The KV cache against a full forward pass: reading in pieces equals reading at once."""

import jax
import numpy as np
import pytest

from sleep_jax.models.cache import append, grow, init_cache, row_bytes, take_rows
from sleep_jax.models.decoder import Decoder, lm_logits, unstack_layers
from sleep_jax.sampling.sampler import prefill

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def in_pieces(cfg, trained):
    """(tokens, mask) pieces -> (cache, log-probs of each piece)."""

    def read(pieces, cache=None):
        out = []
        for tokens, mask in pieces:
            cache, hidden = prefill(cfg, trained, tokens, mask, cache)
            out.append(np.asarray(jax.nn.log_softmax(lm_logits(cfg, trained["params"], hidden))))
        return cache, out

    return read


def left_padded(rows, width):
    tokens, mask = np.full((len(rows), width), 50, np.int32), np.zeros((len(rows), width), np.int32)
    for i, row in enumerate(rows):
        tokens[i, width - len(row) :], mask[i, width - len(row) :] = row, 1
    return tokens, mask


def test_prefill_in_left_padded_pieces_equals_the_whole(in_pieces, trained, log_probs):
    lengths = [(4, 6, 2), (6, 1, 6), (1, 5, 0)]  # per row the tokens of each piece
    rows = [[RNG.integers(0, 97, n) for n in row] for row in lengths]
    pieces = [left_padded(column, 6) for column in zip(*rows)]
    cache, got = in_pieces(pieces)
    assert cache["index"] == 18 and cache["segment_ids"].shape == (3, 18)
    for i, row in enumerate(rows):
        want = log_probs(trained, np.concatenate(row))
        real = np.concatenate([g[i, 6 - len(piece) :] for g, piece in zip(got, row)])
        np.testing.assert_allclose(real, want, rtol=0, atol=5e-5)


def test_prefill_continues_the_segments_of_the_cache(in_pieces, trained, log_probs):
    a, b = RNG.integers(0, 97, (2, 6)).astype(np.int32)
    first = np.concatenate([a[:2], b[:4]])[None], np.array([[1, 1, 2, 2, 2, 2]], np.int32)
    second = np.concatenate([b[4:5], a[2:], b[5:]])[None], np.array([[2, 1, 1, 1, 1, 2]], np.int32)
    _, got = in_pieces([first, second])
    np.testing.assert_allclose(got[1][0, 1:5], log_probs(trained, a)[2:], rtol=0, atol=5e-5)
    np.testing.assert_allclose(got[1][0, [0, 5]], log_probs(trained, b)[4:], rtol=0, atol=5e-5)


def test_unrolled_layers_leave_the_same_cache(cfg, trained):
    tokens = RNG.integers(0, 97, (3, 6)).astype(np.int32)
    mask = np.ones_like(tokens)
    cache, want = prefill(cfg, trained, tokens, mask)
    unrolled = cfg.replace(scan_layers=False)
    empty = init_cache(unrolled, 3, 6)
    apply = jax.jit(lambda v: Decoder(unrolled).apply(v, tokens, mask, mutable=["cache"]))
    hidden, grown = apply({**unstack_layers(cfg, trained), "cache": empty})
    np.testing.assert_allclose(hidden, want, rtol=0, atol=2e-5)
    jax.tree.map(
        lambda g, w: np.testing.assert_allclose(g, w, rtol=0, atol=2e-5),
        grown["cache"],
        unstack_layers(cfg, {"cache": cache})["cache"],
    )


def test_grow_adds_empty_room_and_puts_repeats_side_by_side(cfg):
    cache = jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(x.dtype), init_cache(cfg, 2, 3))
    grown = grow(cfg, cache, 4, repeats=2)
    assert grown["index"] == cache["index"]
    np.testing.assert_array_equal(grown["segment_ids"][:, :3], cache["segment_ids"][[0, 0, 1, 1]])
    old, new = cache["layers"]["attention"], grown["layers"]["attention"]
    np.testing.assert_array_equal(new["key"][..., :3], old["key"][:, [0, 0, 1, 1]])
    np.testing.assert_array_equal(new["value"][..., :3, :], old["value"][:, [0, 0, 1, 1]])
    room = new["key"][..., 3:], new["value"][..., 3:, :], grown["segment_ids"][:, 3:]
    assert [r.shape for r in room] == [(2, 4, 2, 8, 4), (2, 4, 2, 4, 8), (4, 4)]
    assert not any(np.asarray(r).any() for r in room)


@pytest.mark.parametrize("scan", [True, False])
def test_take_rows_in_any_order_and_repeatedly(cfg, scan):
    cfg = cfg.replace(scan_layers=scan)
    empty = init_cache(cfg, 3, 2)
    cache = jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(x.dtype), empty)
    taken = take_rows(cfg, cache, [2, 0, 0, -1])
    assert taken["index"] == cache["index"]
    rows = [2, 0, 0, 2]
    np.testing.assert_array_equal(taken["segment_ids"], cache["segment_ids"][rows])
    for name, layer in cache.items():
        if name.startswith("layer"):
            for part in ("key", "value"):
                old, new = layer["attention"][part], taken[name]["attention"][part]
                np.testing.assert_array_equal(new, old[:, rows] if scan else old[rows])


def test_take_rows_continue_as_in_the_whole_cache(in_pieces, cfg, trained, log_probs):
    documents = [RNG.integers(0, 97, 6) for _ in range(3)]
    requests = [RNG.integers(0, 97, 6) for _ in range(3)]
    cache, _ = in_pieces([left_padded(documents, 6)])
    picked = [2, 0, 2]
    _, (got,) = in_pieces([left_padded(requests, 6)], take_rows(cfg, cache, picked))
    for row, document in enumerate(picked):
        want = log_probs(trained, np.concatenate([documents[document], requests[row]]))[6:]
        np.testing.assert_allclose(got[row], want, rtol=0, atol=5e-5)


def test_row_bytes_counts_what_a_row_takes_in_all_layers(cfg):
    # Keys and values of 16 tokens in every layer, float32, and their segment ids.
    want = cfg.layers * 2 * cfg.kv_heads * cfg.head_dim * 16 * 4 + 16 * 4
    assert row_bytes(cfg, init_cache(cfg, 3, 16)) == want
    assert row_bytes(cfg, jax.eval_shape(lambda: init_cache(cfg, 3, 16))) == want


def test_append_of_one_token_equals_a_cache_that_was_grown(cfg):
    tokens = np.random.default_rng(0).integers(1, cfg.vocab, (2, 6)).astype(np.int32)
    rngs = {"params": jax.random.key(0), "memory": jax.random.key(1)}
    variables = Decoder(cfg).init(rngs, tokens)
    read, _ = prefill(cfg, variables, tokens, np.array([[0, 1, 1, 1, 1, 1], [1] * 6]))
    cache, one = grow(cfg, read, 3), tokens[:, :1]
    given = {**variables, "cache": cache}
    apply = jax.jit(Decoder(cfg).apply, static_argnames="mutable")
    hidden, grown = apply(given, one, mutable=("cache",))
    same, changed = apply(given, one, mutable=("appended",))
    assert changed.keys() == {"appended"}
    with pytest.raises(ValueError, match="more than one token a row: apply with mutable"):
        apply(given, tokens[:, :2], mutable=("appended",))
    np.testing.assert_allclose(same, hidden, atol=1e-5)
    appended = append(cfg, cache, changed["appended"])
    assert jax.tree.structure(appended) == jax.tree.structure(grown["cache"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), appended, grown["cache"])
