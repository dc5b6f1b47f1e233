"""Memory as hidden units of the FFN, which gives an ordinary decoder without memory.

A SwiGLU expert and a Llama MLP are one formula, (silu(h G) * (h U)) D, so active experts can be
appended to the base's hidden units. The result is a wider FFN that any server of such models loads.

Gates of a router depend on the token, a chain adds to what the next level sees, and a bottleneck is
no SwiGLU: none of them is an FFN. Such memory would first have to be distilled into slots that are
(a night of its own); `check_absorbable` is where that would be asked for.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.interop.tensors import join_stacks, split_stacks
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.memory.slots import level_of
from sleep_jax.models.decoder_config import DecoderConfig

_REASONS = {
    "router": "its gates depend on the token",
    "layout": "each level changes what the next one sees",
    "expert": "it has no gated units",
    "lora": "its terms change the base's own matrices, which --to=hf merges and --to=peft leaves "
    "beside them",
}
_ABSORBED = {"router": "none", "layout": "parallel", "expert": "swiglu"}


def check_absorbable(memory: MemoryConfig) -> None:
    """Checks that slots can be written as hidden units of an FFN.

    Raises:
      ValueError: they cannot; names the field and says what can be done.
    """
    for field, wanted in _ABSORBED.items():
        if (value := getattr(memory, field)) != wanted:
            reason = _REASONS.get(value, _REASONS[field])
            raise ValueError(
                f"memory.{field}={value!r} cannot be absorbed into an FFN: {reason}; take "
                f"the slots as they are with --to=delta, or make a run with memory.{field}="
                f"{wanted!r}"
            )


@dataclasses.dataclass(frozen=True)
class Units:
    """The hidden units that a memory adds to the FFN of every layer.

    Attributes:
      experts: float32 {gate, up [layers, d, r], down [layers, r, d]}, with `memory.scale` in down
        and 0 where inactive.
      first: the first layer that they belong to; layers below it have none.
      width: units of a layer, zero units included.
      d: width of the model.
    """

    experts: tuple[Mapping[str, np.ndarray], ...]
    first: int
    width: int
    d: int

    def of_layer(self, layer: int) -> dict[str, np.ndarray]:
        """The units of a layer as checkpoints store them: gate, up [units, d], down [d, units]."""
        filled = {"gate": [], "up": [], "down": []}
        if layer >= self.first:
            for expert in self.experts:
                for leaf, parts in filled.items():
                    parts.append(np.asarray(expert[leaf][layer - self.first]).T)
        out = {}
        for leaf, parts in filled.items():
            axis = 1 if leaf == "down" else 0
            zeros = self.width - sum(part.shape[axis] for part in parts)
            shape = (self.d, zeros) if axis else (zeros, self.d)
            out[leaf] = np.concatenate([*parts, np.zeros(shape, np.float32)], axis)
        return out


def units_of(
    cfg: DecoderConfig,
    slots: Mapping,
    read: Callable[[str, int | None], Mapping[str, np.ndarray]],
    pad: int = 1,
) -> Units:
    """The units of every active slot and of the wake weights, level by level.

    Args:
      cfg: a decoder with memory.
      slots: the collection of this name.
      read: the weights of a slot of a level, or its wake weights: (`level_l`, slot or None) ->
        {gate, up [layers, d, r], down [layers, r, d]}. Inactive slots are not read.
      pad: zero units are added until the FFN's width is a multiple of it.

    Raises:
      ValueError: as `check_absorbable`.
    """
    check_absorbable(cfg.memory)
    experts = []
    for name, masks in sorted(slots["layers"].items()):
        active = np.asarray(masks.get("active", np.zeros((1, 0), bool)))
        for slot in np.flatnonzero(active.any(axis=0)).tolist():
            experts.append(_where(active[:, slot], read(name, slot), cfg.memory.scale))
        if cfg.memory.has_wake(level_of(name)):
            experts.append(_where(masks["carries"], read(name, None), cfg.memory.scale))
    width = sum(expert["down"].shape[1] for expert in experts)
    width += -(cfg.hidden + width) % pad
    return Units(tuple(experts), cfg.memory.carriers(cfg.layers)[0], width, cfg.width)


def _where(active, weights, scale: float) -> dict[str, np.ndarray]:
    """Weights [layers, ...], 0 in layers where `active` [layers] is false, scaled."""
    on = np.asarray(active)[:, None, None]
    kept = {x: np.where(on, np.asarray(weights[x], np.float32), 0) for x in ("gate", "up", "down")}
    return kept | {"down": np.float32(scale) * kept["down"]}


def absorb(cfg: DecoderConfig, variables, pad: int = 1) -> tuple[DecoderConfig, dict]:
    """Appends every active slot, and the wake weights, to the hidden units of the FFN.

    Args:
      cfg: a decoder with `memory.layout='parallel'`, `memory.expert='swiglu'` and
        `memory.router='none'`.
      variables: its collections params, memory and slots, in scanned form.
      pad: as for `units_of`.

    Returns:
      (cfg, params): the decoder without memory, with the same logits up to rounding. Layers that
      carry no memory are padded with zero units, since all layers have one width.

    Raises:
      ValueError: as `check_absorbable`.
    """
    levels = variables["memory"]["layers"]

    def read(name, slot):
        if slot is None:
            return levels[name]["wake"]
        return jax.tree.map(lambda x: x[:, slot], levels[name]["experts"])

    units = units_of(cfg, variables["slots"], read, pad)
    by_layer = [units.of_layer(layer) for layer in range(cfg.layers)]
    without_memory = cfg.replace(memory=MemoryConfig())
    params = join_stacks(cfg, variables["params"])
    mlp = {}
    for leaf, axis in (("gate", -1), ("up", -1), ("down", -2)):
        kernel = params["layers"]["mlp"][leaf]["kernel"]
        added = jnp.asarray(np.stack([x[leaf].T for x in by_layer]), kernel.dtype)
        mlp[leaf] = {"kernel": jnp.concatenate([kernel, added], axis)}
    params["layers"] = params["layers"] | {"mlp": mlp}
    merged = split_stacks(without_memory, params)
    return without_memory.replace(hidden=cfg.hidden + units.width), merged
