"""Select: of every context the Top-k dreams by importance, and b at random for diversity (paper 4,
step 2)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from sleep_jax.dreaming.importance import MEASURES


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """Which dreams are tried.

    Attributes:
      measure: of importance, one of `importance.MEASURES`.
      top: kept of each context by importance, k.
      random: kept of the rest at random, b.
      interaction: eta of `greats`.

    Raises:
      ValueError: a field has no such value.
    """

    measure: str = "cosine"
    top: int = 1
    random: int = 1
    interaction: float = 1.0

    def __post_init__(self):
        if self.measure not in MEASURES:
            raise ValueError(
                f"dreaming.measure={self.measure!r}; choose from {', '.join(MEASURES)}"
            )
        for name in ("top", "random", "interaction"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"dreaming.{name}={value}; it cannot be negative")
        if not self.top + self.random:
            raise ValueError("dreaming.top=0 and dreaming.random=0 keep no dream; raise one")

    @property
    def step(self) -> float:
        """What `greats` multiplies interactions by."""
        return self.interaction / max(self.top, 1)


def select(
    order: Sequence[int],
    contexts: Sequence[int],
    top: int,
    random: int,
    seed: int | tuple[int, ...],
) -> list[int]:
    """Per context the `top` dreams and `random` others drawn uniformly, as sorted indices.

    Args:
      order: the dreams of every context, best first.
      contexts: per dream the index of its context.
      top, random: how many.
      seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    order, contexts = np.asarray(order, int), np.asarray(contexts, int)
    chosen: list[int] = []
    for context in np.unique(contexts):
        ranked = order[contexts[order] == context]
        rest = ranked[top:]
        drawn = rng.choice(rest, size=min(random, len(rest)), replace=False)
        chosen += [int(i) for i in (*ranked[:top], *drawn)]
    return sorted(chosen)
