"""Replay: a share of what is learnt are examples of earlier days or of general text.

    memory = ReplayMemory()
    for pairs in days:
        model = fine_tuned(model, with_replay(pairs, memory, config, rng), ...)
        memory = memory.add(pairs, config.capacity, rng)

A tenth of old examples is what those mix in who write documents into weights (EntiGraph, Yang et
al. 2024, arXiv 2409.07431; Active Reading, Lin et al. 2025, arXiv 2508.09494). A bounded memory is
a reservoir (Vitter 1985; Chaudhry et al. 2019, arXiv 1902.10486): every example ever seen is as
likely to be in it.
"""

import dataclasses
from collections.abc import Sequence

import jax

from sleep_jax.data.examples import PromptCompletion
from sleep_jax.data.orders import numpy_generator
from sleep_jax.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class ReplayConfig(Settings, section="replay"):
    """How much is replayed, and how much is kept for it."""

    share: float = setting(0.1, "share of old examples in what is learnt", least=0, below=1)
    capacity: int = setting(0, "most examples that are kept; 0: all", least=0)


@dataclasses.dataclass(frozen=True)
class ReplayMemory:
    """Examples of before.

    Attributes:
      pairs: those that are kept.
      seen: how many there were.
    """

    pairs: tuple[PromptCompletion, ...] = ()
    seen: int = 0

    def add(
        self, pairs: Sequence[PromptCompletion], capacity: int, rng: jax.Array
    ) -> "ReplayMemory":
        """The memory after these examples.

        Args:
          pairs: new ones.
          capacity: most that are kept; 0: all.
          rng: PRNG key of this call.
        """
        kept, generator = list(self.pairs), numpy_generator(rng)
        for seen, pair in enumerate(pairs, start=self.seen):
            if not capacity or len(kept) < capacity:
                kept.append(pair)
            elif (slot := int(generator.integers(seen + 1))) < capacity:
                kept[slot] = pair
        return ReplayMemory(tuple(kept), self.seen + len(pairs))

    def draw(self, count: int, rng: jax.Array) -> list[PromptCompletion]:
        """`count` examples, drawn without replacement; again from all where there are fewer."""
        generator, drawn = numpy_generator(rng), []
        while self.pairs and len(drawn) < count:
            order = generator.permutation(len(self.pairs))[: count - len(drawn)]
            drawn += [self.pairs[i] for i in order]
        return drawn


def with_replay(
    pairs: Sequence[PromptCompletion], memory: ReplayMemory, config: ReplayConfig, rng: jax.Array
) -> list[PromptCompletion]:
    """New examples and so many old ones that these are `config.share` of all; none where nothing is
    kept."""
    count = round(len(pairs) * config.share / (1 - config.share))
    return [*pairs, *memory.draw(count, rng)]
