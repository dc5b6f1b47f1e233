"""Trials: silent at birth, isolated, and the same together as alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests_dreaming import batch_of_rows, model

from sleep_jax.dreaming.trial import TrialConfig, init_lora, likelihoods, mean_nll, train_adapters

TRIAL = TrialConfig(epochs=4, learning_rate=1e-2, chunk=2)


def test_an_adapter_at_birth_changes_nothing():
    cfg, variables = model()
    lora = init_lora(cfg, variables["params"], jax.random.key(0))
    rows = jax.tree.map(lambda x: x[0], batch_of_rows(0, 1))
    with_adapter = mean_nll(cfg, {**variables, "lora": lora}, rows)
    assert jnp.array_equal(with_adapter, mean_nll(cfg, variables, rows))


def test_an_unknown_target_is_refused():
    cfg, variables = model(targets=("gate", "gates"))
    with pytest.raises(ValueError, match="gates"):
        init_lora(cfg, variables["params"], jax.random.key(0))


def test_adapters_trained_together_equal_those_trained_alone():
    cfg, variables = model()
    lora = init_lora(cfg, variables["params"], jax.random.key(0))
    dreams = batch_of_rows(5, 3)
    together, losses = train_adapters(cfg, TRIAL, variables, lora, dreams)
    assert np.all(losses[:, -1] < losses[:, 0])
    for i in range(3):
        one = jax.tree.map(lambda x, i=i: x[i : i + 1], dreams)
        alone, _ = train_adapters(cfg, TRIAL, variables, lora, one)
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together)):
            np.testing.assert_allclose(a[0], b[i], rtol=2e-3, atol=2e-5)


def test_tau_rises_on_what_an_adapter_was_trained_on():
    cfg, variables = model()
    lora = init_lora(cfg, variables["params"], jax.random.key(0))
    dreams = batch_of_rows(7, 2)
    adapters, _ = train_adapters(cfg, TRIAL, variables, lora, dreams)
    at_birth = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, *x.shape)), lora)
    before = likelihoods(cfg, TRIAL, variables, at_birth, dreams)
    after = likelihoods(cfg, TRIAL, variables, adapters, dreams)
    assert np.all(after > before)
    np.testing.assert_allclose(
        before[0],
        -mean_nll(cfg, variables, jax.tree.map(lambda x: x[0], dreams)),
        rtol=1e-5,
    )
