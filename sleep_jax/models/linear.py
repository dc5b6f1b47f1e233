"""Matrix products with narrow operands and float32 results, forward and backward, and the linears
on them.

A product of bfloat16 operands that is accumulated and kept in float32 is the fast path of TPUs,
GPUs and CPUs with matrix units. Autodiff alone would leave it: the cotangent is float32, so the
backward products would mix dtypes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from sleep_jax.models.decoder_config import DecoderConfig

RELAID = 128  # rows and columns from which on a transpose is worth its copy


def product(x, y):
    """x @ y of operands of one dtype, kept in float32; `matmul` is for what is differentiated."""
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)


def transposed(w):
    """w^T, float [n, k], of a matrix [k, n].

    On a CPU it is laid out anew: a product with the transpose as a mere view of bfloat16 would be
    made in float32, four times as slow. Not under a mesh of several devices, where that would put
    the pieces of a matrix together.
    """
    if jax.sharding.get_abstract_mesh().size > 1:
        return w.T

    def copied(w):
        return jax.lax.optimization_barrier(with_layout_constraint(w.T, Layout((0, 1))))

    return jax.lax.platform_dependent(w, cpu=copied, default=jnp.transpose)


@jax.custom_vjp
def matmul(x, w):
    """x @ w with x cast to w's dtype, accumulated in float32.

    Args:
      x: [..., m, k], any float dtype.
      w: [k, n], or [..., k, n] with the leading axes of x; its dtype is the operand dtype.

    Returns:
      float32 [..., m, n].
    """
    return product(x.astype(w.dtype), w)


def _matmul_forward(x, w):
    narrow = x.astype(w.dtype)
    return product(narrow, w), (narrow, w, jnp.zeros((), x.dtype))


def _matmul_backward(residuals, g):
    x, w, like_x = residuals
    g = g.astype(w.dtype)
    is_large = w.ndim == 2 and min(w.shape) >= RELAID
    dx = product(g, transposed(w) if is_large else jnp.swapaxes(w, -1, -2))
    if w.ndim == 2:
        x, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    dw = product(jnp.swapaxes(x, -1, -2), g)
    return dx.astype(like_x.dtype), dw.astype(w.dtype)


matmul.defvjp(_matmul_forward, _matmul_backward)


class Linear(nn.Module):
    """y = x W (+ bias) (+ alpha / rank * (x A) B where the `lora` collection holds A and B for it).

    A [in, r] and B [r, out] are one adapter for all rows. With a leading axis, [n, in, r] and
    [n, r, out], they are n adapters side by side and the rows of x are n runs of equal length, each
    run under its own: x W stays one product of all rows.

    Attributes:
      cfg: the decoder it is part of.
      features: output width.
      use_bias: whether a bias is added.
    """

    cfg: DecoderConfig
    features: int
    use_bias: bool = False

    @nn.compact
    def __call__(self, x):
        """Maps [..., in] to float32 [..., features]."""
        dtype = self.cfg.dtype
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.features), dtype
        )
        y = matmul(x, kernel)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,), dtype)
        if self.has_variable("lora", "a"):
            a, b = self.get_variable("lora", "a"), self.get_variable("lora", "b")
            scale = self.cfg.lora.alpha / self.cfg.lora.rank
            runs = x.reshape(*a.shape[:-2], -1, x.shape[-1])
            low = matmul(runs, a.astype(dtype))
            y = y + scale * matmul(low, b.astype(dtype)).reshape(y.shape)
        return y


class RMSNorm(nn.Module):
    """x / rms(x) * scale, in float32 (Zhang and Sennrich, 2019)."""

    eps: float

    @nn.compact
    def __call__(self, x):
        """Normalises the last axis of [..., d]."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.eps) * scale
