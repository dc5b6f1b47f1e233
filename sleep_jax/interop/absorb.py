"""A slept model as an ordinary decoder: its memory becomes units of the FFN.

A SwiGLU expert and a Llama MLP are one formula, (silu(h G) * (h U)) D, so the experts that are on
stand beside the base's hidden units as more of them. What comes out has no memory to run: a wider
FFN that any server of such models loads.
"""

import jax
import jax.numpy as jnp

from sleep_jax.interop.tensors import join_stacks, split_stacks
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.memory.slots import level_of, used
from sleep_jax.models.decoder_config import DecoderConfig


def absorb(cfg: DecoderConfig, variables) -> tuple[DecoderConfig, dict]:
    """Appends every active slot, and the wake weights, to the FFN.

    Args:
      cfg: a decoder with `memory.layout='parallel'`, `memory.expert='swiglu'` and
        `memory.router='none'`.
      variables: its collections params, memory and slots, in scanned form.

    Returns:
      (cfg, params): the decoder without memory whose logits are the same but for rounding. Layers
      that carry no memory are filled up with units of zeros, since all layers are of one width.

    Raises:
      ValueError: the memory is not one that an FFN can hold; names the field.
    """
    for field, value in (("layout", "parallel"), ("expert", "swiglu"), ("router", "none")):
        if (held := getattr(cfg.memory, field)) != value:
            raise ValueError(
                f"memory.{field}={held!r} is no part of an ordinary FFN; only {value!r} can be "
                "absorbed"
            )
    bare = cfg.replace(memory=MemoryConfig())
    params = join_stacks(cfg, variables["params"])
    units = _units(cfg, variables)
    width = units["down"].shape[1]
    trunk = cfg.layers - len(units["down"])
    mlp = {}
    for leaf, axis in (("gate", -1), ("up", -1), ("down", -2)):
        kernel = params["layers"]["mlp"][leaf]["kernel"]
        filled = jnp.pad(units[leaf].astype(kernel.dtype), ((trunk, 0), (0, 0), (0, 0)))
        mlp[leaf] = {"kernel": jnp.concatenate([kernel, filled], axis)}
    params["layers"] = params["layers"] | {"mlp": mlp}
    return bare.replace(hidden=cfg.hidden + width), split_stacks(bare, params)


def _units(cfg: DecoderConfig, variables):
    """All that is on in the layers from the first carrier on, side by side: gate, up [layers, d, R]
    and down [layers, R, d], as the base sees them."""
    first, d = cfg.memory.carriers(cfg.layers)[0], cfg.width
    none = jnp.zeros((cfg.layers - first, d, 0))
    parts = [{"gate": none, "up": none, "down": none.swapaxes(1, 2)}]
    for name, held in variables["memory"]["layers"].items():
        slots = variables["slots"]["layers"][name]
        for index in range(used(variables["slots"], level_of(name))):
            expert = jax.tree.map(lambda x, i=index: x[:, i], held["experts"])
            parts.append(_where(slots["active"][:, index], expert))
        if cfg.memory.has_wake(level_of(name)):
            parts.append(_where(slots["carries"], held["wake"]))
    axes = {"gate": -1, "up": -1, "down": -2}
    wide = {leaf: jnp.concatenate([p[leaf] for p in parts], a) for leaf, a in axes.items()}
    return wide | {"down": cfg.memory.scale * wide["down"]}


def _where(on, weights):
    return jax.tree.map(lambda x: jnp.where(on[:, None, None], x, 0.0), weights)
