"""Equal weights have equal fingerprints, others differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.interop.fingerprint import fingerprint

PARAMS = {
    "embed": np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32),
    "norm": {"scale": jnp.ones(8, jnp.bfloat16)},
}


def test_fingerprint_does_not_depend_on_sharding():
    expected = fingerprint(PARAMS)
    assert len(expected) == 16 and fingerprint(jax.tree.map(jnp.asarray, PARAMS)) == expected
    assert fingerprint(jax.tree.map(np.copy, PARAMS)) == expected


def _one_bit(x):
    x = x.copy()
    x.view(np.uint32)[3, 2] ^= 1
    return x


@pytest.mark.parametrize(
    "change",
    [_one_bit, lambda x: x[::-1], lambda x: x.T, lambda x: x.reshape(8, 16), lambda x: x + 0.5],
)
def test_fingerprint_depends_on_every_bit(change):
    assert fingerprint(PARAMS | {"embed": change(PARAMS["embed"])}) != fingerprint(PARAMS)


def test_fingerprint_depends_on_names_and_dtypes():
    other = {"embedding": PARAMS["embed"], "norm": PARAMS["norm"]}
    wider = PARAMS | {"norm": {"scale": jnp.ones(8, jnp.float32)}}
    assert len({fingerprint(x) for x in (PARAMS, other, wider)}) == 3
