"""Selection of dreams: of every context the Top-k by importance, and b at random for diversity
(paper 4, step 2)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from sleep_jax.dreaming.importance import MEASURES
from sleep_jax.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class SelectionConfig(Settings, section="dreaming"):
    """Which dreams are tried.

    Raises:
      ValueError: a field has no such value, or no dream would be kept.
    """

    measure: str = setting("cosine", "measure of the importance of a dream", choices=MEASURES)
    keep_top: int = setting(1, "dreams kept per document by importance; 0: none", least=0)
    keep_random: int = setting(1, "further dreams kept per document at random; 0: none", least=0)
    interaction: float = setting(
        1.0, "of greats: penalty of dreams that repeat chosen ones; 0: nothing", least=0
    )

    def check(self) -> None:
        if not self.keep_top + self.keep_random:
            raise ValueError(
                "dreaming.keep_top=0 and dreaming.keep_random=0 keep no dream; raise one"
            )

    @property
    def step(self) -> float:
        """The factor of `greats` on interactions, eta / k."""
        return self.interaction / max(self.keep_top, 1)


def select(
    order: Sequence[int],
    contexts: Sequence[int],
    top: int,
    random: int,
    seed: int | tuple[int, ...],
) -> list[int]:
    """Selects per context the `top` dreams and `random` others, drawn uniformly.

    Args:
      order: indices of all dreams; those of each context best first.
      contexts: per dream the index of its context.
      top, random: numbers of dreams.
      seed: of the draw.

    Returns:
      Sorted indices of the selected dreams.
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
