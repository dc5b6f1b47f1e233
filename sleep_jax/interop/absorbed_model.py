"""A base with its memory absorbed, read in rows of one tensor at a time: what exports write."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from sleep_jax.interop.absorb import Units
from sleep_jax.interop.tensors import CHUNK, Leaf, WeightsFile, leaves
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.memory.slots import FFN
from sleep_jax.models.decoder_config import DecoderConfig


@dataclasses.dataclass(frozen=True)
class AbsorbedModel:
    """An ordinary decoder, the base's FFNs widened by `units`.

    Attributes:
      base_cfg: the base, with or without its memory.
      base: its weights.
      units: the hidden units to append.
    """

    base_cfg: DecoderConfig
    base: WeightsFile
    units: Units

    @property
    def cfg(self) -> DecoderConfig:
        """The widened decoder, without memory."""
        hidden = self.base_cfg.hidden + self.units.width
        return self.base_cfg.replace(memory=MemoryConfig(), hidden=hidden)

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """The leaves of the widened decoder."""
        return leaves(self.cfg)

    @property
    def numbers(self) -> int:
        """Its weights."""
        return sum(math.prod(leaf.shape) * (leaf.layers or 1) for leaf in self.leaves)

    def base_name(self, leaf: Leaf, index: int) -> str:
        """The name of a tensor in the base."""
        return getattr(leaf, self.base.naming)[index]

    def added(self, leaf: Leaf, index: int) -> np.ndarray | None:
        """What is appended to tensor `index` of a leaf: float32 rows [units, d] of gate and up,
        columns [d, units] of down; None for other leaves.
        """
        if not is_ffn(leaf):
            return None
        return self.units.of_layer(index)[leaf.path.split("/")[2]]

    def rows(self, leaf: Leaf, index: int) -> Iterator[np.ndarray]:
        """The rows of tensor `index` of a leaf, in chunks, as the base has them (float), and
        float32 rows of the units.
        """
        name, added = self.base_name(leaf, index), self.added(leaf, index)
        is_down = leaf.path.endswith("/down/kernel")
        shape = self.base.shape(name)
        step = shape[0] if len(shape) == 1 else max(1, CHUNK // leaf.shape[-1])
        for start in range(0, shape[0], step):
            rows = self.base.read(name, slice(start, min(start + step, shape[0])))
            if is_down:
                columns = added[start : start + step]
                rows = np.concatenate([rows.astype(np.float32), columns], axis=1)
            yield rows
        if added is not None and not is_down and len(added):
            yield added


def is_ffn(leaf: Leaf) -> bool:
    """Whether a leaf is widened: gate, up or down of the FFN."""
    return leaf.path in {f"layers/mlp/{name}/kernel" for name in FFN}
