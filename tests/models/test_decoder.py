"""The decoder: packing, padding, and that its forms (scanned, recomputed) are one function."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory
from sleep_jax.models.decoder import (
    Decoder,
    lm_head,
    lm_logits,
    run_trunk,
    unstack_layers,
)
from sleep_jax.models.mixer import SHARED_PREFIX

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 97, (2, 12)).astype(np.int32)


@pytest.mark.parametrize("layers", ["all", (1,)])
def test_init_makes_the_collections_of_init_memory(cfg, layers):
    levels = (LevelConfig(period=2, slots=2, rank=3), LevelConfig(slots=4, rank=5))
    memory = MemoryConfig(levels, unit="episodes", router="sigmoid", layers=layers)
    cfg = cfg.replace(memory=memory)
    init = jax.eval_shape(
        Decoder(cfg).init, {"params": jax.random.key(0), "memory": jax.random.key(0)}, TOKENS
    )
    memory, slots = init_memory(jax.random.key(0), cfg.memory, layers=2, width=32)
    got = {name: init[name] for name in ("memory", "slots")}
    want = jax.eval_shape(lambda: {"memory": memory, "slots": slots})
    assert jax.tree.structure(got) == jax.tree.structure(want)
    assert jax.tree.leaves(got) == jax.tree.leaves(want)


def test_packed_segments_equal_separate_sequences(cfg, trained, logits):
    lengths = (5, 3, 4)
    segments = np.repeat([1, 2, 3], lengths)[None]
    packed = logits(cfg, trained, TOKENS[:1], segments)
    ends = np.cumsum(lengths)
    for start, end in zip(ends - lengths, ends):
        alone = logits(cfg, trained, TOKENS[:1, start:end])
        np.testing.assert_allclose(packed[:, start:end], alone, rtol=0, atol=2e-5)


def test_segments_do_not_see_each_other(cfg, trained, logits):
    segments = np.repeat([1, 2, 3], (5, 3, 4))[None]
    other = TOKENS[:1].copy()
    other[:, 5:8] = (other[:, 5:8] + 1) % 97
    a, b = (np.asarray(logits(cfg, trained, t, segments)) for t in (TOKENS[:1], other))
    np.testing.assert_array_equal(a[:, :5], b[:, :5])
    np.testing.assert_array_equal(a[:, 8:], b[:, 8:])
    assert (a[:, 5:8] != b[:, 5:8]).any(axis=-1).all()


def test_segments_share_a_prefix(cfg, trained, logits):
    # Prefix of 3; segments 1 and 2 continue it, -2 stands alone, 0 is padding.
    parts = {1: TOKENS[:1, 3:6], -2: TOKENS[:1, 6:8], 2: TOKENS[:1, 8:11]}
    segments = np.array([[SHARED_PREFIX] * 3 + [1] * 3 + [-2] * 2 + [2] * 3 + [0]])
    packed = np.asarray(logits(cfg, trained, TOKENS[:1], segments))
    for segment, tokens in parts.items():
        whole = np.concatenate([TOKENS[:1, :3], tokens], 1) if segment > 0 else tokens
        alone = np.pad(whole, ((0, 0), (0, 12 - whole.shape[1])))
        ones = (np.arange(12) < whole.shape[1]).astype(np.int32)[None]
        want = logits(cfg, trained, alone, ones)[0, : whole.shape[1]]
        got = packed[segments == segment]
        np.testing.assert_allclose(got, want[-len(got) :], rtol=0, atol=2e-5)
        if segment == 1:
            np.testing.assert_allclose(
                packed[segments == SHARED_PREFIX], want[:3], rtol=0, atol=2e-5
            )


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(cfg, trained, logits, side):
    alone = logits(cfg, trained, TOKENS[:, :8])
    room = (4, 0) if side == "left" else (0, 4)
    tokens = np.pad(TOKENS[:, :8], ((0, 0), room), constant_values=50)
    mask = np.pad(np.ones((2, 8), np.int32), ((0, 0), room))
    padded = np.asarray(logits(cfg, trained, tokens, mask))
    np.testing.assert_allclose(padded[mask == 1].reshape(2, 8, -1), alone, rtol=0, atol=2e-5)
    assert np.isfinite(padded).all()


def test_decoder_is_causal(cfg, trained, logits):
    other = TOKENS.copy()
    other[:, 7:] = (other[:, 7:] + 1) % 97
    a, b = (np.asarray(logits(cfg, trained, t)) for t in (TOKENS, other))
    np.testing.assert_array_equal(a[:, :7], b[:, :7])
    assert (a[:, 7:] != b[:, 7:]).any(axis=-1).all()


def test_scanned_unrolled_and_remat_have_the_same_loss_and_gradients(cfg, trained):
    @functools.partial(jax.jit, static_argnames="cfg")
    def run(cfg, memory):
        def loss(memory):
            # From the stacked variables, so that all forms have gradients of one structure.
            whole = trained | {"memory": memory}
            whole = whole if cfg.scan_layers else unstack_layers(cfg, whole)
            hidden = Decoder(cfg).apply(whole, TOKENS)
            log_probs = jax.nn.log_softmax(lm_logits(cfg, whole["params"], hidden))
            return -jnp.take_along_axis(log_probs[:, :-1], TOKENS[:, 1:, None], -1).mean()

        return jax.value_and_grad(loss)(memory)

    want = run(cfg.replace(remat="none"), trained["memory"])
    assert min(np.abs(g).max() for g in jax.tree.leaves(want[1])) > 1e-3
    for scan in (True, False):
        got = run(cfg.replace(scan_layers=scan, remat="full"), trained["memory"])
        jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-3, atol=1e-5), got, want)


@pytest.mark.parametrize("scan", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_decoder_from_the_trunk_equals_the_whole(cfg, scan):
    """Each part is run with the other's parameters set to NaN."""
    memory = MemoryConfig((LevelConfig(slots=2, rank=3),), layers=(2, 3))
    cfg = cfg.replace(layers=4, memory=memory, scan_layers=True)
    rngs = {"params": jax.random.key(0), "memory": jax.random.key(1)}
    whole = jax.jit(Decoder(cfg).init)(rngs, TOKENS)
    segments = np.repeat([[SHARED_PREFIX, 1, 2, 0]], (3, 4, 3, 2), axis=1).repeat(2, axis=0)

    def without(*names):
        nan = {k: jax.tree.map(lambda x: x * np.nan, whole["params"][k]) for k in names}
        out = whole | {"params": whole["params"] | nan}
        return out if scan else unstack_layers(cfg, out)

    form = cfg.replace(scan_layers=scan)
    apply = jax.jit(Decoder(form).apply)
    trunk = run_trunk(form, without("layers", "final_norm"), TOKENS, segments)
    want = apply(without(), TOKENS, segments)
    got = apply(without("trunk", "embed"), TOKENS, segments, trunk)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    assert np.isfinite(want).all() and np.abs(trunk - want).max() > 0.1


def test_tied_head_is_the_embedding(cfg, variables):
    params = variables["params"]
    hidden = jnp.asarray(RNG.normal(size=(2, 32)), jnp.float32)
    tied = lm_logits(cfg.replace(tie_embeddings=True), params, hidden)
    np.testing.assert_allclose(tied, hidden @ params["embed"]["embedding"].T, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(lm_head(cfg, params), params["head"]["kernel"])
