"""How a mesh of devices decodes tokens one by one: weights stay where they are, activations move.

Elsewhere rows are spread and weights gathered. One token a row is far smaller than the weights, so
these stay cut over all chips that share the rows: the matrices into a mixer or an FFN by columns,
those out of it by rows, and one sum goes over the links for each (Shoeybi et al. 2019, arXiv
1909.08053). The residual stream is whole on every chip, attention works on the rows and heads that
the cache has there.

    variables = decode_layout(variables)    once, before the loop over tokens
    is_decoding(x)                          asked by the modules, of their activations

On one device nothing of this happens.
"""

import jax
import jax.numpy as jnp

from sleep_jax.models.sharding import AXES, ROWS, constrain, constrain_tree, mesh_axes

CUT = ("tensor", "fsdp")  # the axes that cut weights of the base; slots, far smaller, have
UNITS = ("fsdp",)  # the axis that cuts them elsewhere, along their units

# As `sharding.RULES`, for the leaves whose layout differs from those.
DECODE_RULES = (
    (r"params/.*/(q|k|v|gate|up)/kernel", (None, CUT)),
    (r"params/.*/(o|down)/kernel", (CUT, None)),
    (r"params/.*/(q|k|v)/bias", (CUT,)),
    (r"memory/(.*/)?(gate|up)", (None, UNITS)),
    (r"memory/(.*/)?down", (UNITS, None)),
    (r"memory/(.*/)?(gate|up)_b", (None, CUT)),
    (r"memory/(.*/)?down_a", (CUT, None)),
    (r"memory/(.*/)?((gate|up)_a|down_b)", ()),
    (r"lora/.*/(q|k|v|gate|up)/a", ()),
    (r"lora/.*/(q|k|v|gate|up)/b", (None, CUT)),
    (r"lora/.*/(o|down)/a", (CUT, None)),
    (r"lora/.*/(o|down)/b", ()),
)


def decode_layout(variables):
    """Inside a program: a decoder's collections in the layout that decodes."""
    return {name: constrain_tree(tree, name, DECODE_RULES) for name, tree in variables.items()}


def is_decoding(x) -> bool:
    """Whether activations [batch, time, ...] are one token a row on several devices."""
    return x.shape[1] == 1 and bool(mesh_axes(0, AXES))


def whole(x):
    """Activations [batch, ..., d] that every chip has all of, for its rows of the axis `data`."""
    return constrain(x, "data", *[None] * (x.ndim - 1))


def by_rows(x):
    """Activations [batch, time, heads, ...] of attention, cut as the cache is."""
    return constrain(x, ROWS, None, "tensor", *[None] * (x.ndim - 3))


def times_columns(x, w, cut=CUT):
    """x @ w, float32, of a matrix that is cut by columns: so is the product."""
    y = jnp.matmul(x.astype(w.dtype), w, preferred_element_type=jnp.float32)
    return constrain(y, "data", *[None] * (y.ndim - 2), cut)


def times_rows(x, w, cut=CUT):
    """x @ w of a matrix that is cut by rows, summed over the chips in the matrix's dtype.

    A sum of several such products is summed over the chips once; `settled` ends it.
    """
    x = constrain(x.astype(w.dtype), "data", *[None] * (x.ndim - 2), cut)
    return whole(jnp.matmul(x, w, preferred_element_type=w.dtype))


def settled(x):
    """A sum of `times_rows` [batch, time, d] as float32, after it went over the links; without the
    barrier the compiler would widen it before. Where nothing is decoded, x."""
    return jax.lax.optimization_barrier(x).astype(jnp.float32) if is_decoding(x) else x


def logits_by_rows(hidden, head):
    """Logits float32 [batch, vocab], a row's on one chip, from hidden states [batch, d] and a head
    [d, vocab] that is cut by columns."""
    logits = jnp.matmul(hidden.astype(head.dtype), head, preferred_element_type=jnp.float32)
    return constrain(constrain(logits, "data", CUT), ROWS, None)
