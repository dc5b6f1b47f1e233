"""Router keys of new slots: linear discriminant analysis of what is new against what was known."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory, put_slot, take_slot, unlock
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.experts import route
from sleep_jax.seeding import router_key
from sleep_jax.seeding.router_key import add_inputs, discriminant, init_moments, init_router_key
from sleep_jax.seeding.sequences import Exchange
from sleep_jax.seeding.transaction import MemoryState

RNG = np.random.default_rng(0)
# Texts of three kinds, of other tokens each: two documents, and what was known before.
FIRST, SECOND, KNOWN = (range(start, start + 6) for start in (5, 40, 70))


def texts(kind, rows=16, seed=0):
    """Random rows of the tokens of a kind, int32 [rows, 12]."""
    rng = np.random.default_rng((seed, min(kind)))
    return rng.choice(np.array(kind), (rows, 12)).astype(np.int32)


def memory(key):
    return MemoryConfig((LevelConfig(slots=3, rank=4),), router="sigmoid", router_key=key, top_k=1)


@jax.jit(static_argnames="cfg")
def sown(cfg, variables, tokens):
    """Inputs [layers, rows, time, d] and gates [layers, rows, time, slots] of level 1."""
    _, seen = Decoder(cfg).apply(variables, tokens, mutable=["intermediates"])
    level = seen["intermediates"]["layers"]["level_1"]
    return level["input"][0], level["gates"][0]


@pytest.fixture(scope="module")
def params(variables):
    """Weights of a base whose hidden states are nearly parallel, as in a language model: all
    embeddings have a large part in common.
    """
    embedding = variables["params"]["embed"]["embedding"] + 10.0
    return variables["params"] | {"embed": {"embedding": embedding}}


def after_two_nights(cfg, params):
    """The memory after nights that learnt `FIRST` and `SECOND`, each beside `KNOWN`: slots with
    their initial keys, and output weights that are not zero.
    """
    state = MemoryState(*init_memory(jax.random.key(3), cfg.memory, layers=2, width=32))
    for document in (FIRST, SECOND):
        slots, index = unlock(state.slots, 1)
        state = state.replace(slots=slots)
        rows, is_known = np.concatenate([texts(document), texts(KNOWN)]), np.arange(32) >= 16
        state = init_router_key(cfg, params, state, 1, index, rows, np.ones_like(rows), is_known)
        slot = take_slot(state.memory, 1, index)
        slot |= {"down": jnp.full_like(slot["down"], 1e-3)}
        state = state.replace(memory=put_slot(state.memory, 1, index, slot))
    return state


def gates_of(key, cfg, params):
    """Gates [layers, rows, time, slots] after two nights of texts that no night learnt: of both
    documents, and of what was known.
    """
    cfg = cfg.replace(memory=memory(key), remat="none")
    model = after_two_nights(cfg, params).variables(params)
    return [np.asarray(sown(cfg, model, texts(x, seed=1))[1]) for x in (FIRST, SECOND, KNOWN)]


def test_discriminant_equals_a_value_by_hand():
    # Covariance diag(1, 3), shrunk to 0.9 diag(1, 3) + 0.1 * 2 I = diag(1.1, 2.9), which whitens
    # (1.1, 2.9) to (1, 1): a squared distance of 4, and w . midpoint = 0.55 + 2.45 = 3.
    new, known = np.array([[1.1, 3.9]], np.float32), np.array([[0.0, 1.0]], np.float32)
    scatter = 10 * np.diag([1.0, 3.0]).astype(np.float32)[None]
    got = discriminant(new, known, scatter, jnp.float32(10))
    slope = 2 * math.log(9) / 4
    np.testing.assert_allclose(got["key"], [[slope * math.sqrt(2)] * 2], rtol=1e-5)
    np.testing.assert_allclose(got["bias"], [-slope * 3], rtol=1e-5)


def test_discriminant_sets_the_gates_of_both_means():
    new, known = RNG.normal(size=(2, 3, 16)).astype(np.float32) + 5
    samples = RNG.normal(size=(3, 40, 16)).astype(np.float32)
    scatter = np.einsum("lnd,lne->lde", samples, samples)
    got = discriminant(new, known, scatter, jnp.float32(40))
    for layer in range(3):
        h = np.stack([new[layer], known[layer]])[None]
        given = got["key"][layer][None], got["bias"][layer][None]
        gates = route(h, *given, np.ones(1, bool), np.zeros(1, bool), 0)
        np.testing.assert_allclose(gates[0, :, 0], [0.9, 0.1], rtol=1e-4)


def test_discriminant_of_equal_means_is_an_open_question():
    mean = np.ones((1, 4), np.float32)
    got = discriminant(mean, mean, np.zeros((1, 4, 4), np.float32), jnp.float32(1))
    assert not got["key"].any() and not got["bias"].any()  # a gate of 1/2


def test_add_inputs_gives_the_moments_of_all_tokens(cfg, variables):
    cfg = cfg.replace(memory=memory("contrast"), remat="none")
    weights, slots = init_memory(jax.random.key(3), cfg.memory, layers=2, width=32)
    model = {"params": variables["params"], "memory": weights, "slots": slots}
    rows, mask = texts(range(97), 8), (np.arange(12) < RNG.integers(3, 12, (8, 1)))
    mask = mask.astype(np.int32)
    h, moments = np.asarray(sown(cfg, model, rows)[0]), init_moments(cfg, model, 1)
    for part in (slice(4), slice(4, 8)):
        moments = add_inputs(cfg, model, 1, moments, rows[part], mask[part])
    real = h[:, mask == 1]
    centred = real - real.mean(1, keepdims=True)
    assert moments.count == mask.sum()
    np.testing.assert_allclose(moments.mean, real.mean(1), rtol=1e-4, atol=1e-5)
    want = np.einsum("lnd,lne->lde", centred, centred)
    np.testing.assert_allclose(moments.scatter, want, rtol=1e-3, atol=1e-3)


def test_contrast_keys_select_the_slot_of_each_document_and_none_of_what_was_known(cfg, params):
    first, second, known = gates_of("contrast", cfg, params)
    # top_k=1: the gate of the slot that is not selected is 0.
    assert (first[..., 0] > 0).mean() > 0.9 and (second[..., 1] > 0).mean() > 0.75
    assert first[..., 0].mean() > 0.8 and second[..., 1].mean() > 0.7
    assert known.sum(-1).mean() < 0.2
    assert not any(gates[..., 2].any() for gates in (first, second, known))  # not in use


def test_mean_keys_do_not_tell_documents_apart(cfg, params):
    first, second, known = gates_of("mean", cfg, params)
    shares = (first[..., 0] > 0).mean(), (second[..., 1] > 0).mean()
    assert min(shares) < 0.3  # one of the slots has the tokens of both
    assert known.sum(-1).mean() > 0.9  # and one is on for what was known


def test_keys_of_later_nights_compile_nothing(cfg, params, compilations):
    cfg = cfg.replace(memory=memory("contrast"), remat="none")
    after_two_nights(cfg, params)
    compilations.clear()
    after_two_nights(cfg, params)
    assert not compilations


def test_contrast_without_a_known_or_a_new_sequence_raises(cfg, params):
    cfg = cfg.replace(memory=memory("contrast"))
    state = MemoryState(*init_memory(jax.random.key(3), cfg.memory, layers=2, width=32))
    rows = texts(FIRST, 4)
    for is_known in ([False] * 4, [True] * 4):
        with pytest.raises(ValueError, match=r"of 4 sequences [04] were known; set study\.rehears"):
            init_router_key(cfg, params, state, 1, 0, rows, np.ones_like(rows), is_known)


def test_mean_keys_read_no_moments(cfg, params, monkeypatch):
    monkeypatch.setattr(router_key, "add_inputs", pytest.fail)
    after_two_nights(cfg.replace(memory=memory("mean"), remat="none"), params)


@pytest.mark.parametrize("kind", ["rehearse", "earlier", "recite", "answer", "reread"])
def test_exchange_is_known(kind):
    exchange = Exchange(None, (1,), (1,), (2,), kind)
    assert exchange.is_known == (kind in ("rehearse", "earlier"))
    assert dataclasses.replace(exchange, on_policy=True).is_known == exchange.is_known
