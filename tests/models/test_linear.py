"""The product with float32 results: its gradients, its dtypes, and the layers on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.models.decoder_config import LoraConfig
from sleep_jax.models.linear import Linear, RMSNorm, matmul

RNG = np.random.default_rng(0)


def normal(*shape, dtype=jnp.float32):
    return jnp.asarray(RNG.normal(size=shape), dtype)


@pytest.mark.parametrize(
    "x_shape, w_shape", [((5, 3), (3, 4)), ((2, 5, 3), (3, 4)), ((2, 6, 5, 3), (2, 6, 3, 4))]
)
def test_matmul_gradients_equal_autodiff(x_shape, w_shape):
    x, w = normal(*x_shape), normal(*w_shape)
    y, pull = jax.vjp(matmul, x, w)
    want, pull_want = jax.vjp(jnp.matmul, x, w)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
    g = normal(*y.shape)
    for got, expected in zip(pull(g), pull_want(g)):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_matmul_of_narrow_operands_is_float32():
    # 257 needs nine bits: a bfloat16 accumulator or result would be 256.
    ones = jnp.ones((1, 257), jnp.bfloat16)
    y = matmul(ones, ones.T)
    assert y.dtype == jnp.float32 and y[0, 0] == 257


def test_matmul_rounds_x_to_the_operand_dtype():
    x = jnp.full((1, 1), 1 + 2**-10)
    assert matmul(x, jnp.ones((1, 1), jnp.bfloat16))[0, 0] == 1
    assert matmul(x, jnp.ones((1, 1)))[0, 0] == 1 + 2**-10


def test_matmul_gradients_have_the_dtypes_of_the_operands():
    x, w = normal(4, 8), normal(8, 3, dtype=jnp.bfloat16)
    dx, dw = jax.grad(lambda x, w: (matmul(x, w) ** 2).sum(), argnums=(0, 1))(x, w)
    assert (dx.dtype, dw.dtype) == (jnp.float32, jnp.bfloat16)
    wide = jax.grad(lambda x, w: ((x @ w) ** 2).sum(), argnums=(0, 1))(x, w.astype(jnp.float32))
    for got, want in zip((dx, dw), wide):
        np.testing.assert_allclose(np.float32(got), want, rtol=0.05, atol=0.1)


def test_linear_adds_bias_and_adapter(cfg):
    cfg = cfg.replace(lora=LoraConfig(rank=2, alpha=6.0))
    x, kernel, bias = normal(5, 3), normal(3, 4), normal(4)
    a, b = normal(3, 2), normal(2, 4)
    layer = Linear(cfg, 4, use_bias=True)
    params = {"kernel": kernel, "bias": bias}
    plain = layer.apply({"params": params}, x)
    np.testing.assert_allclose(plain, x @ kernel + bias, rtol=1e-5, atol=1e-5)
    adapted = layer.apply({"params": params, "lora": {"a": a, "b": b}}, x)
    # alpha / rank = 3
    np.testing.assert_allclose(adapted - plain, 3 * (x @ a @ b), rtol=1e-4, atol=1e-5)


def test_linear_applies_stacked_adapters_to_their_rows(cfg):
    cfg = cfg.replace(lora=LoraConfig(rank=2, alpha=6.0))
    x, kernel, a, b = normal(6, 5, 3), normal(3, 4), normal(3, 3, 2), normal(3, 2, 4)
    layer, params = Linear(cfg, 4), {"kernel": kernel}
    got = layer.apply({"params": params, "lora": {"a": a, "b": b}}, x)
    for i in range(3):
        rows = slice(2 * i, 2 * i + 2)
        variables = {"params": params, "lora": {"a": a[i], "b": b[i]}}
        np.testing.assert_allclose(got[rows], layer.apply(variables, x[rows]), rtol=1e-5, atol=1e-5)


def test_rms_norm_by_hand():
    # rms of (3, 4) is sqrt(12.5); eps = 12.5 makes it 5.
    y = RMSNorm(12.5).apply({"params": {"scale": jnp.array([1.0, 2.0])}}, jnp.array([[3.0, 4.0]]))
    np.testing.assert_allclose(y, [[0.6, 1.6]], rtol=1e-6)
