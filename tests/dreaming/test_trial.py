"""Trials: initial adapters change nothing, training together equals separate training, and there is
one product with each base weight."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params
from small_model import batch_of_rows, model

from sleep_jax.dreaming.adapters import init_adapters, init_lora
from sleep_jax.dreaming.trial import (
    SCHEDULES,
    Hyperparameters,
    TrialConfig,
    train_adapters,
)
from sleep_jax.evals.likelihood import mean_nll
from sleep_jax.models.decoder_config import TARGETS, LoraConfig

TRIAL = TrialConfig(
    epochs=4, learning_rate=1e-2, schedule="linear", max_grad_norm=0.1, microbatch=2
)


def one(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def deltas(lora, scale):
    """The product that every adapter adds to its weight, [layers, ..., in, out]."""
    deltas_by_path = {path[:-1]: 0 for path, _ in jax.tree_util.tree_leaves_with_path(lora)}
    for path in deltas_by_path:
        leaf = lora
        for key in path:
            leaf = leaf[key.key]
        deltas_by_path[path] = scale * leaf["a"] @ leaf["b"]
    return deltas_by_path


nll = jax.jit(mean_nll, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def gradient(cfg, variables, lora, rows):
    return jax.grad(lambda lora: mean_nll(cfg, {**variables, "lora": lora}, rows))(lora)


def trained_alone(cfg, variables, lora, rows, optimizer, updates):
    """An adapter trained by a plain loop."""
    state, update = optimizer.init(lora), jax.jit(optimizer.update)
    for _ in range(updates):
        step, state = update(gradient(cfg, variables, lora, rows), state)
        lora = optax.apply_updates(lora, step)
    return lora


@pytest.mark.slow
def test_init_lora_does_not_change_the_model():
    cfg, variables = model(targets=tuple(TARGETS))
    lora = init_lora(cfg, variables["params"], jax.random.key(0))
    rows = one(batch_of_rows(0, 1), 0)
    with_adapter = nll(cfg, {**variables, "lora": lora}, rows)
    assert jnp.array_equal(with_adapter, nll(cfg, variables, rows))


def test_train_adapters_equals_separate_training():
    cfg, variables = model(targets=("k", "o", "gate", "down"))
    lora = init_lora(cfg, variables["params"], jax.random.key(0))
    dreams = batch_of_rows(5, 3)
    overrides = [{}, {"epochs": 2, "learning_rate": 3e-3}, {"rank": 1, "alpha": 1.0}]
    hyper = Hyperparameters.from_dreams(cfg.lora, TRIAL, overrides)
    together, losses = train_adapters(cfg, TRIAL, variables, [lora], dreams, hyper)
    assert np.all(losses[:, 1] < losses[:, 0])
    assert losses[1, 2:].tolist() == [0, 0] and np.all(losses[[0, 2], 2:] > 0)
    np.testing.assert_allclose(
        losses[:, 0], [nll(cfg, variables, one(dreams, i)) for i in range(3)], rtol=1e-5
    )
    for i, settings in enumerate(overrides):
        epochs = settings.get("epochs", 4)
        rank, alpha = settings.get("rank", cfg.lora.rank), settings.get("alpha", cfg.lora.alpha)
        # Without the columns beyond its rank.
        narrow = jax.tree_util.tree_map_with_path(
            lambda path, x, r=rank: x[..., :r] if path[-1].key == "a" else x[..., :r, :], lora
        )
        rate = optax.linear_schedule(settings.get("learning_rate", 1e-2), 0.0, epochs)
        separate = trained_alone(
            cfg.replace(lora=LoraConfig(rank, alpha, cfg.lora.targets)),
            variables,
            narrow,
            one(dreams, i),
            optax.chain(optax.clip_by_global_norm(0.1), optax.adam(rate)),
            epochs,
        )
        want = deltas(separate, alpha / rank)
        got = deltas(jax.tree.map(lambda x, i=i: x[:, i], together), 2.0)
        assert len(got) == 4
        for path in want:
            np.testing.assert_allclose(got[path], want[path], rtol=5e-3, atol=2e-5)


@pytest.mark.slow
def test_train_adapters_skips_updates_of_empty_rows():
    cfg, variables = model(targets=("v", "up"))
    trial = TrialConfig(epochs=2, learning_rate=1e-2, schedule="linear", batch_size=1)
    pair = init_adapters(cfg, variables["params"], jax.random.key(0), 2)
    rows = batch_of_rows(5, 3)
    long = jax.tree.map(lambda x: x.reshape(1, 6, -1)[:, :3], rows)
    short = jax.tree.map(lambda x: x.at[:, 2].set(jnp.zeros((), x.dtype)), long)
    both = jax.tree.map(lambda *x: jnp.concatenate(x), long, short)
    together, losses = train_adapters(cfg, trial, variables, pair, both, rng=jax.random.key(1))
    assert losses.shape == (4, 6) and np.all(losses[:2] > 0)
    np.testing.assert_array_equal(losses[2:] > 0, [[True, True, False] * 2] * 2)
    without = jax.tree.map(lambda x: x[:, :2], short)
    separate, _ = train_adapters(cfg, trial, variables, pair, without, rng=jax.random.key(1))
    for a, b in zip(jax.tree.leaves(separate), jax.tree.leaves(together)):
        np.testing.assert_allclose(a, b[:, 2:], rtol=2e-3, atol=2e-5)
    # Seeds differ in the initial adapter, dreams of a seed do not.
    a = together["layers"]["attention"]["v"]["a"]
    moved = jnp.abs(a[:, 0] - a[:, 2]).max()
    assert moved < 0.1 < jnp.abs(a[:, 0] - a[:, 1]).max()


def test_row_order_depends_on_key_and_seed():
    cfg, variables = model(targets=("up",))
    trial = TrialConfig(epochs=2, learning_rate=1e-2, batch_size=1)
    lora = init_lora(cfg, variables["params"], jax.random.key(0))
    rows = jax.tree.map(lambda x: x.reshape(1, 6, -1), batch_of_rows(5, 3))

    def losses(key):
        given = (cfg, trial, variables, [lora, lora], rows)
        _, result = train_adapters(*given, rng=jax.random.key(key))
        assert result.shape == (2, 12)
        return np.asarray(result)

    one = losses(1)
    np.testing.assert_array_equal(one, losses(1))
    assert not np.allclose(one[0], one[1]) and not np.allclose(one, losses(2))
    with pytest.raises(ValueError, match=r"trial\.batch_size=1 needs rng"):
        train_adapters(cfg, trial, variables, [lora], rows)


def products(jaxpr):
    """(shape, shape, dimension numbers) of every matrix product in a program."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield *(v.aval.shape for v in eqn.invars), eqn.params["dimension_numbers"]
        for inner in jaxprs_in_params(eqn.params):
            yield from products(inner)


def test_train_adapters_has_one_product_per_base_weight():
    cfg, variables = model(targets=("q", "gate", "down"))
    lora = init_lora(cfg, variables["params"], jax.random.key(0))
    dreams, trial = batch_of_rows(5, 3), TrialConfig(epochs=1)
    program = jax.make_jaxpr(lambda *args: train_adapters(cfg, trial, *args))(
        variables, [lora], dreams
    )
    result = [*products(program.jaxpr)]
    base = {(16, 24): "gate, up", (24, 16): "down"}
    forward = [(x, w, dims) for x, w, dims in result if w in base]
    assert {w for _, w, _ in forward} == {*base}
    for x, w, (contracted, batched) in forward:
        assert contracted == ((len(x) - 1,), (0,)) and batched == ((), ())
        assert x == (3 * 2, 12, w[0])  # dreams * rows, time, width
    low_rank = [(x, w) for x, w, _ in result if len(w) == 3 and 2 in w]
    assert low_rank and all(w[0] == 3 for _, w in low_rank)  # low-rank products are separate


def test_schedules_by_hand():
    progress = jnp.array([0.0, 0.25, 0.5, 1.0])
    factors = {name: schedule(progress) for name, schedule in SCHEDULES.items()}
    np.testing.assert_allclose(factors["constant"], [1, 1, 1, 1])
    np.testing.assert_allclose(factors["linear"], [1, 0.75, 0.5, 0])
    np.testing.assert_allclose(factors["cosine"], [1, 0.5 + 0.125**0.5, 0.5, 0], atol=1e-7)


def test_invalid_trial_settings_raise():
    with pytest.raises(ValueError, match=r"targets=.*'gates'.*each one of q, k, v"):
        LoraConfig(targets=("gate", "gates"))
    with pytest.raises(ValueError, match="rank=0"):
        LoraConfig(rank=0)
    with pytest.raises(ValueError, match="seeds=0"):
        TrialConfig(seeds=0)
    with pytest.raises(ValueError, match="schedule='step'; choose from constant, linear, cosine"):
        TrialConfig(schedule="step")
    for wrong, word in (
        ({"epochs": 9}, "epochs=9"),
        ({"lr": 1.0}, "'lr'"),
        ({"rank": 0}, "rank=0"),
    ):
        with pytest.raises(ValueError, match=word):
            Hyperparameters.from_dreams(LoraConfig(), TRIAL, [{}, wrong])


EIGHT = """
import jax, numpy as np
from small_model import batch_of_rows, model
from sleep_jax.dreaming.adapters import init_lora
from sleep_jax.dreaming.trial import TrialConfig, train_adapters

assert len(jax.devices()) == 8
cfg, variables = model()
trial = TrialConfig(epochs=3, learning_rate=1e-2, batch_size=1, microbatch=1)
lora = init_lora(cfg, variables["params"], jax.random.key(0))
dreams = batch_of_rows(5, 11)  # two on most of the devices
args = (cfg, trial, variables, [lora], dreams, None, jax.random.key(1))
want, _ = train_adapters(*args)
with jax.set_mesh(jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))):
    compiled = train_adapters.lower(*args).compile().as_text()
    got, losses = train_adapters(*args)
assert losses.shape == (11, 6)
for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
    assert word + "(" not in compiled.split("ENTRY")[0], word
for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got)):
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
"""


@pytest.mark.slow
def test_train_adapters_is_sharded_over_data_axis():
    folder = Path(__file__).parent
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(folder), str(folder.parents[1])]),
    }
    done = subprocess.run(
        [sys.executable, "-c", EIGHT], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
