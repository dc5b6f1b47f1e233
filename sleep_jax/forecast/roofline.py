"""What hardware allows: peaks of chips, and the step time and MFU that a program's counts imply.

Peaks are those of Google's Cloud TPU documentation (bfloat16 products, HBM, interconnect): one ring
of an inter-chip link in both directions, as Austin et al., "How to Scale Your Model" (2025), count
it. Products, memory and links are taken to overlap perfectly, so the time is a lower bound and the
MFU an upper one. Peaks of GPUs are those of NVIDIA's data sheets, without sparsity.
"""

import dataclasses
import math

from sleep_jax.forecast.counts import Counts
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.mixer import get_mixer

GIB = 2**30
# What Google Cloud calls a slice of a chip: its name, and what it counts of each chip.
ACCELERATORS = {"v4": ("v4", 2), "v5e": ("v5litepod", 1), "v5p": ("v5p", 2), "v6e": ("v6e", 1)}


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip.

    Attributes:
      flops: bfloat16 products, a second.
      hbm: bytes of memory.
      bandwidth: of it, bytes a second.
      link: bytes a second around one ring, both directions.
    """

    flops: float
    hbm: float
    bandwidth: float
    link: float


CHIPS = {
    "v4": Chip(275e12, 32 * GIB, 1.20e12, 0.9e11),
    "v5e": Chip(197e12, 16 * GIB, 0.82e12, 0.9e11),
    "v5p": Chip(459e12, 95 * GIB, 2.77e12, 1.8e11),
    "v6e": Chip(918e12, 32 * GIB, 1.64e12, 1.8e11),
}
# What JAX calls a device (`device_kind`), and its bfloat16 products a second.
PEAKS = {
    "TPU v4": CHIPS["v4"].flops,
    **dict.fromkeys(("TPU v5 lite", "TPU v5e"), CHIPS["v5e"].flops),
    **dict.fromkeys(("TPU v5", "TPU v5p"), CHIPS["v5p"].flops),
    **dict.fromkeys(("TPU v6 lite", "TPU v6e"), CHIPS["v6e"].flops),
    **dict.fromkeys(("NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB"), 312e12),
    **dict.fromkeys(("NVIDIA H100 80GB HBM3", "NVIDIA H200"), 989e12),
}


def peak_flops(kind: str) -> float | None:
    """bfloat16 products a second of a device that JAX calls so; None where nobody said."""
    return PEAKS.get(kind)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds that each part of a program takes alone, and its use of the chips.

    Attributes:
      products, memory, links: seconds.
      mfu: model FLOPs over what the chips could do in `seconds`.
    """

    products: float
    memory: float
    links: float
    mfu: float

    @property
    def seconds(self) -> float:
        """Of the slowest part."""
        return max(self.products, self.memory, self.links)

    @property
    def bound(self) -> str:
        """The slowest part."""
        return max(("products", "memory", "links"), key=lambda name: getattr(self, name))


def estimate(counts: Counts, chip: Chip, model_flops: float, chips: int) -> Estimate:
    """The roofline of a program.

    Args:
      counts: what one chip does.
      chip: of which sort it is.
      model_flops: that the model needs, on all chips together.
      chips: how many there are.
    """
    parts = (
        counts.flops / chip.flops,
        counts.bytes / chip.bandwidth,
        sum(counts.sent.values()) / chip.link,
    )
    return Estimate(*parts, mfu=model_flops / (chips * chip.flops * max(*parts, 1e-30)))


def model_flops(
    cfg: DecoderConfig,
    *,
    tokens: float,
    keys: float,
    scored: float,
    passes: int = 1,
    layers: int | None = None,
) -> float:
    """FLOPs that a model needs, nothing computed twice, no memory beside the base.

    Args:
      cfg: the decoder.
      tokens: that pass through the layers.
      keys: that each attends to, on average.
      scored: tokens that the LM head is applied to.
      passes: 1 forward; 2 with the gradient of the activations, the base being frozen.
      layers: how many they pass through; None: all.
    """
    layers = cfg.layers if layers is None else layers
    layer = get_mixer(cfg.mixer).flops(cfg, keys) + 6 * cfg.width * cfg.hidden
    return passes * tokens * layers * layer + scored * 2 * cfg.width * cfg.vocab


def chip_of(topology: str) -> tuple[Chip, int]:
    """The chip and the number of chips of a slice such as `v5e:4x4`.

    Raises:
      ValueError: no such slice.
    """
    kind, _, shape = topology.partition(":")
    sides = shape.split("x")
    if kind not in CHIPS or not all(side.isdigit() and int(side) for side in sides):
        raise ValueError(
            f"{topology!r} is no TPU slice; write a chip of {', '.join(CHIPS)} and its sides, e.g. "
            "v5e:4x4 or v5p:2x2x4, or what Google Cloud calls it, e.g. v5litepod-16"
        )
    return CHIPS[kind], math.prod(map(int, sides))


def slice_of(name: str) -> str:
    """The slice that a name stands for: `v5litepod-16`, as Google Cloud has it (ACCELERATOR_TYPE of
    `launch/tpu_vm.sh`), is `v5e:4x4`; others are left as they are."""
    kind, _, count = name.rpartition("-")
    chips = {cloud: (chip, cores) for chip, (cloud, cores) in ACCELERATORS.items()}
    if kind not in chips or not count.isdigit():
        return name
    chip, cores = chips[kind]
    number, dimensions = int(count) // cores, 3 if chip in ("v4", "v5p") else 2
    doublings = number.bit_length() - 1
    if number < 1 or 2**doublings * cores != int(count):
        return name
    sides = [2 ** ((doublings + i) // dimensions) for i in range(dimensions)]
    return f"{chip}:{'x'.join(map(str, sorted(sides, key=lambda side: (side == 1, side))))}"
