"""Accelerators: their peaks, the names of TPU slices, and the FLOPs that a model needs.

Peaks of TPUs are from Google's Cloud TPU documentation (bfloat16 FLOPs, HBM, interconnect); the
bandwidth of a link is that of one ring in both directions, as in Austin et al., "How to Scale Your
Model" (2025). Peaks of GPUs are from NVIDIA's data sheets, without sparsity.
"""

import dataclasses
import math

from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.mixer import get_mixer

GIB = 2**30
# The name of a chip in Google Cloud's slice names, and how many units of such a name are one chip.
ACCELERATORS = {"v4": ("v4", 2), "v5e": ("v5litepod", 1), "v5p": ("v5p", 2), "v6e": ("v6e", 1)}


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip.

    Attributes:
      flops: peak bfloat16 FLOP/s.
      hbm: bytes of memory.
      bandwidth: of the memory, bytes/s.
      link: bandwidth of one ring of inter-chip links, both directions, bytes/s.
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
# (peak bfloat16 FLOP/s, bandwidth of the memory in bytes/s) by the `device_kind` of a JAX device.
PEAKS = {
    "TPU v4": (CHIPS["v4"].flops, CHIPS["v4"].bandwidth),
    **dict.fromkeys(("TPU v5 lite", "TPU v5e"), (CHIPS["v5e"].flops, CHIPS["v5e"].bandwidth)),
    **dict.fromkeys(("TPU v5", "TPU v5p"), (CHIPS["v5p"].flops, CHIPS["v5p"].bandwidth)),
    **dict.fromkeys(("TPU v6 lite", "TPU v6e"), (CHIPS["v6e"].flops, CHIPS["v6e"].bandwidth)),
    "NVIDIA A100-SXM4-40GB": (312e12, 1.555e12),
    "NVIDIA A100-SXM4-80GB": (312e12, 2.039e12),
    "NVIDIA H100 80GB HBM3": (989e12, 3.35e12),
    "NVIDIA H200": (989e12, 4.8e12),
}


def peak_flops(kind: str) -> float | None:
    """Peak bfloat16 FLOP/s of a device by its JAX `device_kind`; None if it is not known."""
    return PEAKS[kind][0] if kind in PEAKS else None


def peak_bandwidth(kind: str) -> float | None:
    """Bytes/s of a device's memory by its JAX `device_kind`; None if it is not known."""
    return PEAKS[kind][1] if kind in PEAKS else None


def model_flops(
    cfg: DecoderConfig,
    *,
    tokens: float,
    keys: float,
    scored: float,
    passes: int = 1,
    layers: int | None = None,
) -> float:
    """FLOPs that the base model needs: no recomputation, no memory levels.

    Args:
      cfg: the decoder.
      tokens: how many pass through the layers.
      keys: how many each token attends to, on average.
      scored: how many tokens the LM head is applied to.
      passes: 1 for the forward pass; 2 with the gradient of the activations (the base is frozen).
      layers: how many layers the tokens pass through; None: all.
    """
    layers = cfg.layers if layers is None else layers
    layer = get_mixer(cfg.mixer).flops(cfg, keys) + 6 * cfg.width * cfg.hidden
    return passes * tokens * layers * layer + scored * 2 * cfg.width * cfg.vocab


def chip_of(topology: str) -> tuple[Chip, int]:
    """The chip and the number of chips of a slice such as `v5e:4x4`.

    Raises:
      ValueError: the text names no slice.
    """
    kind, _, shape = topology.partition(":")
    sides = shape.split("x")
    if kind not in CHIPS or not all(side.isdigit() and int(side) for side in sides):
        raise ValueError(
            f"{topology!r} is no TPU slice; give a chip of {', '.join(CHIPS)} and the shape of the "
            "slice, e.g. v5e:4x4 or v5p:2x2x4, or Google Cloud's name for it, e.g. v5litepod-16"
        )
    return CHIPS[kind], math.prod(map(int, sides))


def slice_of(name: str) -> str:
    """A slice by its name in Google Cloud (`ACCELERATOR_TYPE` of `launch/tpu_vm.sh`), `v5e:4x4` for
    `v5litepod-16`; any other text as it is.
    """
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
