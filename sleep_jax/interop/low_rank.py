"""The low-rank terms of a run as one LoRA adapter, and merged into a base's matrices.

Several slots add up, sum over s of A_s B_s, and that is one A B of their joint rank.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from sleep_jax.interop.absorbed_model import is_ffn
from sleep_jax.interop.tensors import CHUNK, Leaf, WeightsFile, leaves
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.memory.slots import FFN
from sleep_jax.models.decoder_config import DecoderConfig


@dataclasses.dataclass(frozen=True)
class Adapter:
    """All active slots side by side: every matrix W of the FFN is W + scale * A B.

    Attributes:
      terms: float32 {gate_a, up_a [layers, d, R], gate_b, up_b [layers, R, f], down_a
        [layers, f, R], down_b [layers, R, d]}, 0 where inactive; layers from the first carrier on.
      carriers: the layers that have some.
      scale: `memory.scale`.
    """

    terms: Mapping[str, np.ndarray]
    carriers: tuple[int, ...]
    scale: float

    @property
    def rank(self) -> int:
        """R, the joint rank of all slots."""
        return self.terms["gate_a"].shape[-1]

    def of_layer(self, layer: int, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A [in, R] and B [R, out] of one of `FFN` in a carrier."""
        index = layer - self.carriers[0]
        return self.terms[f"{name}_a"][index], self.terms[f"{name}_b"][index]


def adapter_of(
    cfg: DecoderConfig, slots: Mapping, read: Callable[[str, int], Mapping[str, np.ndarray]]
) -> Adapter:
    """The adapter of every active slot; arguments as of `absorb.units_of`.

    Raises:
      ValueError: `memory.expert` is another than `lora`.
    """
    memory = cfg.memory
    if memory.expert != "lora":
        raise ValueError(
            f"memory.expert={memory.expert!r} is no LoRA; take --to=delta, --to=hf or --to=gguf, "
            "or make a run with memory.expert='lora'"
        )
    [(name, masks)] = slots["layers"].items()  # a `lora` memory has one level
    active, experts = np.asarray(masks["active"]), []
    for slot in np.flatnonzero(active.any(axis=0)).tolist():
        on = active[:, slot, None, None]
        weights = read(name, slot).items()
        experts.append({leaf: np.where(on, np.asarray(w, np.float32), 0) for leaf, w in weights})
    terms = {
        f"{matrix}_{side}": np.concatenate([x[f"{matrix}_{side}"] for x in experts], axis)
        for matrix in FFN
        for side, axis in (("a", -1), ("b", -2))
    }
    return Adapter(terms, memory.carriers(cfg.layers), memory.scale)


@dataclasses.dataclass(frozen=True)
class MergedModel:
    """An ordinary decoder of the base's shape, W + scale * A B in place of W in its FFNs.

    Attributes:
      base_cfg: the base, with or without its memory.
      base: its weights.
      adapter: the terms that are added.
    """

    base_cfg: DecoderConfig
    base: WeightsFile
    adapter: Adapter

    @property
    def cfg(self) -> DecoderConfig:
        """The decoder, without memory."""
        return self.base_cfg.replace(memory=MemoryConfig())

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """Its leaves."""
        return leaves(self.cfg)

    @property
    def numbers(self) -> int:
        """Its weights."""
        return sum(math.prod(leaf.shape) * (leaf.layers or 1) for leaf in self.leaves)

    def rows(self, leaf: Leaf, index: int) -> Iterator[np.ndarray]:
        """The rows of tensor `index` of a leaf, in chunks: float32 where something was added."""
        name = getattr(leaf, self.base.naming)[index]
        shape, is_changed = self.base.shape(name), is_ffn(leaf) and index in self.adapter.carriers
        step = shape[0] if len(shape) == 1 else max(1, CHUNK // shape[-1])
        if is_changed:
            a, b = self.adapter.of_layer(index, leaf.path.split("/")[2])
        for start in range(0, shape[0], step):
            chosen = slice(start, min(start + step, shape[0]))
            rows = self.base.read(name, chosen)
            if is_changed:  # stored as [out, in]
                rows = rows.astype(np.float32) + self.adapter.scale * (a @ b[:, chosen]).T
            yield rows
