"""Null-space slots: the directions of what was known, and slots that do not see them."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sharded_null_space
from sample_exchanges import EXCHANGES

from sleep_jax.config import default, read
from sleep_jax.memory.slots import take_slot
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.experts import expert
from sleep_jax.seeding.null_space import (
    known_basis,
    leading_basis,
    max_rank,
    projected,
    second_moments,
)
from sleep_jax.seeding.sequences import Exchange

LENGTH = 24
KNOWN, NEW = np.diag([6.0, 3, 1, 0]), np.diag([1.0, 1, 4, 2])


@pytest.mark.parametrize(
    "share, spare, rank, spared",
    [
        (0.5, 0.0, 1, 7 / 8),  # 6 of 10 are more than half
        (0.85, 0.0, 2, 6 / 8),
        (1.0, 0.0, 2, 6 / 8),  # no more than half of the width
        (0.85, 0.8, 1, 7 / 8),  # a second one would leave 6 of 8
        (0.85, 0.95, 0, 1.0),
    ],
)
def test_leading_basis_has_as_many_as_share_asks_for_and_spare_allows(share, spare, rank, spared):
    moments = (jnp.asarray(x, jnp.float32)[None] for x in (KNOWN, NEW))
    basis, ranks, left = leading_basis(*moments, jnp.float32(share), jnp.float32(spare))
    assert ranks.tolist() == [rank]
    np.testing.assert_allclose(left, [spared], rtol=1e-6)
    want = np.diag([1.0, 1, 0, 0])[:, :2] * (np.arange(2) < rank)
    np.testing.assert_allclose(np.abs(basis[0]), want, atol=1e-6)


def test_leading_basis_spans_the_eigenvectors_of_numpy():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(3, 50, 16)) * 2.0 ** -np.arange(16)
    known = np.einsum("lnd,lne->lde", inputs, inputs).astype(np.float32)
    share = jnp.float32(0.99)
    basis, ranks, _ = leading_basis(known, np.zeros_like(known), share, jnp.float32(0))
    assert basis.shape == (3, 16, max_rank(16)) == (3, 16, 8)
    for moments, columns, rank in zip(known.astype(np.float64), basis, ranks):
        values, vectors = np.linalg.eigh(moments)
        values, vectors = values[::-1], vectors[:, ::-1]
        energy = np.cumsum(values) / values.sum()
        assert energy[rank - 1] >= 0.99 and (rank == 1 or energy[rank - 2] < 0.99)
        want = vectors[:, :rank] @ vectors[:, :rank].T
        np.testing.assert_allclose(columns @ columns.T, want, atol=1e-4)


def test_second_moments_are_sums_over_the_inputs_of_real_tokens(cfg, trained):
    """They are packed into rows; each alone, without padding, is summed up here."""
    got = second_moments(cfg, trained, 1, EXCHANGES, LENGTH)
    want = np.zeros((2, 32, 32))
    apply = jax.jit(functools.partial(Decoder(cfg).apply, mutable=["intermediates"]))
    for e in EXCHANGES:
        _, sown = apply(trained, np.array([e.student + e.completion]))
        h = np.asarray(sown["intermediates"]["layers"]["level_1"]["input"][0], np.float64)[:, 0]
        want += np.einsum("ltd,lte->lde", h, h)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_known_basis_is_none_without_a_share_or_anything_known(cfg, trained):
    assert known_basis(cfg, trained, 1, EXCHANGES, LENGTH, 0.0, 0.0) == (None, {})
    new = [e for e in EXCHANGES if not e.is_known]
    assert known_basis(cfg, trained, 1, new, LENGTH, 0.9, 0.0) == (None, {})


def test_exchanges_of_rehearsal_and_earlier_days_are_known():
    kinds = ("recite", "answer", "rehearse", "earlier")
    known = [Exchange(None, (1,), (1,), (2,), kind).is_known for kind in kinds]
    assert known == [False, False, True, True]


def test_projected_slot_adds_nothing_to_what_its_basis_spans(cfg, trained):
    basis, figures = known_basis(cfg, trained, 1, EXCHANGES, LENGTH, 0.9, 0.0)
    slot = take_slot(trained["memory"], 1, 0)
    silent = projected(slot, basis)
    rng = np.random.default_rng(0)
    for layer, rank in enumerate(figures["null_space_rank"]):
        weights = {name: w[layer] for name, w in silent.items()}
        spanned = basis[layer] @ rng.normal(size=(max_rank(32), 5)).astype(np.float32)
        within, beside = spanned.T[None], rng.normal(size=(1, 5, 32)).astype(np.float32)
        assert 0 < rank < max_rank(32)
        assert np.abs(expert(within, weights)).max() < 1e-10  # a product of two roundings
        assert np.abs(expert(beside, weights)).max() > 0.1
    # What is left is the slot itself where nothing was known, and nothing is left to take away.
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), projected(silent, basis), silent
    )
    np.testing.assert_array_equal(silent["down"], slot["down"])
    assert projected(slot, None) is slot


def test_null_space_is_refused_where_the_last_slot_is_used_again():
    c = default()
    c.memory.on_full = "reuse"
    assert read(c).seeding.null_space == 0
    c.seeding.null_space = 0.9
    with pytest.raises(ValueError, match=r"seeding.null_space=0.9 with memory.on_full='reuse'"):
        read(c)


@pytest.mark.slow
def test_null_space_on_8_devices_equals_that_on_one():
    devices = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, sharded_null_space.__file__],
        env=os.environ | devices,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["ranks"][0] == got["ranks"][1]
    assert got["span"] < 1e-4 and got["slot"] < 1e-4
    assert got["basis_split"] == got["moments_split"] == [None, "fsdp"]
