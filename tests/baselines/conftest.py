"""A tiny model, made once for all files."""

import pytest

from sleep_jax.baselines.model import Model
from sleep_jax.interop.tiny import tiny_model


@pytest.fixture(scope="session")
def tiny():
    """In float32, with a tokenizer of bytes."""
    cfg, params, tokenizer = tiny_model(dtype="float32", remat="none")
    return Model(cfg, {"params": params}, tokenizer)


@pytest.fixture(scope="session")
def loud(tiny):
    """The same with an embedding so large that distributions differ."""
    params = tiny.variables["params"]
    params = params | {"embed": {"embedding": 8 * params["embed"]["embedding"]}}
    return tiny.replace(variables={"params": params})
