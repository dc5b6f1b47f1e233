"""Merges the memory of a model into its FFN, which gives an ordinary decoder without memory.

A SwiGLU expert and a Llama MLP are one formula, (silu(h G) * (h U)) D, so active experts can be
appended to the base's hidden units. The result is a wider FFN that any server of such models loads.
"""

import jax
import jax.numpy as jnp

from sleep_jax.interop.tensors import join_stacks, split_stacks
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.memory.slots import level_of, used
from sleep_jax.models.decoder_config import DecoderConfig


def absorb(cfg: DecoderConfig, variables) -> tuple[DecoderConfig, dict]:
    """Appends every active slot, and the wake weights, to the hidden units of the FFN.

    Args:
      cfg: a decoder with `memory.layout='parallel'`, `memory.expert='swiglu'` and
        `memory.router='none'`.
      variables: its collections params, memory and slots, in scanned form.

    Returns:
      (cfg, params): the decoder without memory, with the same logits up to rounding. Layers that
      carry no memory are padded with zero units, since all layers have one width.

    Raises:
      ValueError: the memory cannot be written as an FFN; names the field.
    """
    for field, value in (("layout", "parallel"), ("expert", "swiglu"), ("router", "none")):
        if (configured := getattr(cfg.memory, field)) != value:
            raise ValueError(
                f"memory.{field}={configured!r} cannot be absorbed into an FFN; only {value!r} can"
            )
    without_memory = cfg.replace(memory=MemoryConfig())
    params = join_stacks(cfg, variables["params"])
    units = _units(cfg, variables)
    width = units["down"].shape[1]
    first_carrier = cfg.layers - len(units["down"])
    mlp = {}
    for leaf, axis in (("gate", -1), ("up", -1), ("down", -2)):
        kernel = params["layers"]["mlp"][leaf]["kernel"]
        padded = jnp.pad(units[leaf].astype(kernel.dtype), ((first_carrier, 0), (0, 0), (0, 0)))
        mlp[leaf] = {"kernel": jnp.concatenate([kernel, padded], axis)}
    params["layers"] = params["layers"] | {"mlp": mlp}
    merged = split_stacks(without_memory, params)
    return without_memory.replace(hidden=cfg.hidden + width), merged


def _units(cfg: DecoderConfig, variables):
    """The hidden units of all active memory, from the first layer with memory on, concatenated:
    gate, up [layers, d, R] and down [layers, R, d], `memory.scale` included in down.
    """
    first, d = cfg.memory.carriers(cfg.layers)[0], cfg.width
    empty = jnp.zeros((cfg.layers - first, d, 0))
    parts = [{"gate": empty, "up": empty, "down": empty.swapaxes(1, 2)}]
    for name, level in variables["memory"]["layers"].items():
        slots = variables["slots"]["layers"][name]
        for index in range(used(variables["slots"], level_of(name))):
            expert = jax.tree.map(lambda x, i=index: x[:, i], level["experts"])
            parts.append(_where_active(slots["active"][:, index], expert))
        if cfg.memory.has_wake(level_of(name)):
            parts.append(_where_active(slots["carries"], level["wake"]))
    axes = {"gate": -1, "up": -1, "down": -2}
    units = {leaf: jnp.concatenate([p[leaf] for p in parts], a) for leaf, a in axes.items()}
    return units | {"down": cfg.memory.scale * units["down"]}


def _where_active(active, weights):
    """Weights [layers, ...], 0 in layers where `active` [layers] is false."""
    return jax.tree.map(lambda x: jnp.where(active[:, None, None], x, 0.0), weights)
