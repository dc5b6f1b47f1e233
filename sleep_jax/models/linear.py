"""Matrix products of narrow operands with float32 results, forward and backward, and the linear
and norm modules on them.

A product of bfloat16 operands that is accumulated and kept in float32 is the fast path of TPUs,
GPUs and CPUs with matrix units. Plain autodiff leaves it: the cotangent is float32, so the backward
products would mix dtypes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from sleep_jax.models.decode_layout import is_decoding, times_columns, times_rows
from sleep_jax.models.decoder_config import DecoderConfig

OUTWARD = ("o", "down")  # linear modules that end a mixer or an FFN
MIN_TRANSPOSED = 128  # rows and columns from which a transposed copy pays


def product(x, y):
    """x @ y of operands of one dtype, in float32; use `matmul` where gradients are taken."""
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)


def transposed(w):
    """w^T, float [n, k], of a matrix [k, n].

    On a CPU it is copied into a new layout: a product with a transposed view of bfloat16 would be
    computed in float32, four times as slow. Not under a mesh of several devices, where the copy
    would gather the shards of the matrix.
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
    is_large = w.ndim == 2 and min(w.shape) >= MIN_TRANSPOSED
    dx = product(g, transposed(w) if is_large else jnp.swapaxes(w, -1, -2))
    if w.ndim == 2:
        x, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    dw = product(jnp.swapaxes(x, -1, -2), g)
    return dx.astype(like_x.dtype), dw.astype(w.dtype)


matmul.defvjp(_matmul_forward, _matmul_backward)


def rounded(x, dtype):
    """The nearest values of a narrower dtype, for products with weights that are held in a wider
    one (a cast to the one and back would be left out by the compiler)."""
    info = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, info.nexp, info.nmant)


class Linear(nn.Module):
    """y = x W (+ bias) (+ alpha / rank * (x A) B if the `lora` collection holds A and B).

    A [in, r] and B [r, out] are one adapter for all rows. With a leading axis, [n, in, r] and
    [n, r, out], they are n stacked adapters and the rows of x are n groups of equal size, one for
    each adapter; x W remains one product of all rows.

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
        """Maps [..., in] to float32 [..., features]; while decoding, an outward one to the dtype of
        the kernel, in which it is summed over the chips."""
        dtype = self.cfg.dtype
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.features), dtype
        )
        times = matmul
        if is_decoding(x):
            times = times_rows if self.name in OUTWARD else times_columns
        y = times(x if kernel.dtype == dtype else rounded(x, dtype), kernel)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,), dtype)
        if self.has_variable("lora", "a"):
            a, b = self.get_variable("lora", "a"), self.get_variable("lora", "b")
            scale = self.cfg.lora.alpha / self.cfg.lora.rank
            groups = x.reshape(*a.shape[:-2], -1, x.shape[-1])
            low = matmul(groups, a.astype(dtype))
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
