"""The roofline of a program: the least step time and the largest MFU that its counts allow.

Products, memory traffic and links are taken to overlap perfectly, so the time is a lower bound and
the MFU an upper one.
"""

import dataclasses

from sleep_jax.forecast.counts import Counts
from sleep_jax.runtime.hardware import Chip


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The least time of a program, and the MFU that it implies.

    Attributes:
      products, memory, links: seconds that each would take alone.
      mfu: model FLOPs over the peak FLOPs of the chips in `seconds`.
    """

    products: float
    memory: float
    links: float
    mfu: float

    @property
    def seconds(self) -> float:
        """Time of the slowest part."""
        return max(self.products, self.memory, self.links)

    @property
    def bound(self) -> str:
        """Name of the slowest part."""
        return max(("products", "memory", "links"), key=lambda name: getattr(self, name))


def estimate(counts: Counts, chip: Chip, model_flops: float, chips: int) -> Estimate:
    """The roofline of a program.

    Args:
      counts: work of one chip.
      chip: its peaks.
      model_flops: FLOPs that the model needs, on all chips together.
      chips: how many there are.
    """
    parts = (
        counts.flops / chip.flops,
        counts.bytes / chip.bandwidth,
        sum(counts.sent.values()) / chip.link,
    )
    return Estimate(*parts, mfu=model_flops / (chips * chip.flops * max(*parts, 1e-30)))
