"""Attention in blocks of queries against `attend` with a mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.models import attend_in_blocks as module
from sleep_jax.models.attend import attend
from sleep_jax.models.attend_in_blocks import Segments, attend_in_blocks, num_visible
from sleep_jax.models.cache import init_cache
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.mixer import SHARED_PREFIX

BATCH, KV, GROUP, H = 2, 2, 2, 8
# A shared prefix that two segments continue, and a row without one, with padding.
KEYS = np.array([[SHARED_PREFIX] * 3 + [1] * 4 + [2] * 5, [0, 1, 1, 1, 1, 0, 2, 2, 2, 2, 2, 0]])


@pytest.fixture
def few(monkeypatch):
    """Scores of five queries fit, those of the last block are padded."""
    monkeypatch.setattr(module, "MAX_SCORES", 5 * KV * GROUP * KEYS.shape[1])


def operands(start):
    rng, keys = np.random.default_rng(0), KEYS.shape[1]
    rows = GROUP * (keys - start)
    shapes = ((rows, H), (H, keys), (keys, H), (rows, H))
    q, key, value, g = (
        jnp.asarray(rng.normal(size=(BATCH, KV, *shape)), jnp.float32) for shape in shapes
    )
    segments = Segments.of_call(jnp.asarray(KEYS[:, start:]), jnp.asarray(KEYS), start)
    is_token = (KEYS[:, start:] != 0)[:, None, None].repeat(GROUP, 2).reshape(BATCH, 1, rows, 1)
    return (q, key, value), g * is_token, segments


def test_mask_of_segments_by_hand():
    keys = jnp.array([[SHARED_PREFIX, 1, 0, 2, 2]])
    mask = Segments.of_call(keys[:, 1:], keys, 1).mask()
    # The prefix and itself; padding sees padding; the second of segment 2 sees the first.
    np.testing.assert_array_equal(
        mask[0], [[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [1, 0, 0, 1, 0], [1, 0, 0, 1, 1]]
    )


@pytest.mark.parametrize("start", [0, 5])
def test_attend_in_blocks_and_its_gradient_equal_attend(start, few):
    floats, g, segments = operands(start)
    assert module._block(KV * GROUP, KV, BATCH, *segments.queries.shape[1:], 12) == 5
    mask, is_token = segments.mask(), np.broadcast_to(g != 0, g.shape)
    want, want_backward = jax.vjp(lambda *x: attend(*x, mask, start), *floats)
    got, backward = jax.vjp(lambda *x: attend_in_blocks(*x, segments, start), *floats)
    np.testing.assert_allclose(got[is_token], want[is_token], atol=1e-6)
    for a, b in zip(backward(g), want_backward(g)):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_num_visible_counts_the_mask(few, cfg):
    cfg = cfg.replace(heads=KV * GROUP, kv_heads=KV)
    _, _, segments = operands(0)
    np.testing.assert_array_equal(num_visible(cfg, segments), segments.mask().sum(-1))


def test_decoder_in_blocks_equals_one_pass_and_forms_no_mask(monkeypatch, cfg):
    """Also on top of a cache; no array of the traced program has [time, keys]."""
    tokens = np.random.default_rng(0).integers(1, cfg.vocab, (1, 23)).astype(np.int32)
    rngs = {"params": jax.random.key(0), "memory": jax.random.key(1)}
    variables = Decoder(cfg).init(rngs, tokens)
    cache = init_cache(cfg, 1, 23)

    def hidden():
        read = {**variables, "cache": cache}
        first, grown = Decoder(cfg).apply(read, tokens[:, :4], mutable=["cache"])
        then, _ = Decoder(cfg).apply(variables | grown, tokens[:, 4:], mutable=["cache"])
        return Decoder(cfg).apply(variables, tokens), jnp.concatenate([first, then], 1)

    whole = jax.jit(hidden)()
    monkeypatch.setattr(module, "MAX_SCORES", 7 * cfg.heads * 23)
    for got, want in zip(jax.jit(lambda: hidden())(), whole):  # traced anew
        np.testing.assert_allclose(got, want, atol=1e-5)
    program = str(jax.make_jaxpr(lambda: Decoder(cfg).apply(variables, tokens))())
    assert "23,23]" not in program and "7,23]" in program
