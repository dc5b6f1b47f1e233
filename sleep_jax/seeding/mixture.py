"""What an update learns from: exchanges in an order of chance, as many as its rows hold."""

import itertools
from collections.abc import Iterator, Sequence

import grain.python as grain

from sleep_jax.seeding.sequences import BatchShape, Exchange, packs

EPOCHS = 2  # over what is learnt by cross-entropy, as over SEAL's rewarded dreams (ReST-EM)


def shuffled(exchanges: Sequence[Exchange], seed: int, spacing: int = 1) -> Iterator[Exchange]:
    """An endless stream over the exchanges, every epoch in a new order that the seed fixes.

    Args:
      exchanges: at least one.
      seed: of the order.
      spacing: others that follow each one that is learnt by cross-entropy, too; where all or none
        are, it does not matter.
    """
    kinds = [[e for e in exchanges if e.supervised is kind] for kind in (True, False)]
    streams = [iter(grain.MapDataset.source(x).seed(seed).shuffle().repeat()) for x in kinds if x]
    turns = [streams[0], *[streams[-1]] * spacing] if len(streams) > 1 else streams
    return itertools.chain.from_iterable(zip(*turns))


def updates_to_draw(
    exchanges: Sequence[Exchange], shape: BatchShape, seed: int, spacing: int = 1
) -> int:
    """Updates of nothing else until all that is learnt by cross-entropy was drawn EPOCHS times;
    `exchanges`, `seed` and `spacing` are those of `shuffled`."""
    left = EPOCHS * sum(e.supervised for e in exchanges)
    stream = shuffled(exchanges, seed, spacing)
    for updates in itertools.count():
        if left <= 0:
            return updates
        chosen, stream = compose([], stream, shape)
        left -= sum(e.supervised for e in chosen)


def widest_spacing(
    exchanges: Sequence[Exchange], shape: BatchShape, seed: int, updates: int
) -> int:
    """The `spacing` that leaves most room for the others: at most their share of all, and narrower
    by halves until so many updates draw all that is learnt by cross-entropy EPOCHS times."""
    lessons = sum(e.supervised for e in exchanges)
    spacing = max(1, (len(exchanges) - lessons) // max(lessons, 1))
    while spacing > 1 and updates_to_draw(exchanges, shape, seed, spacing) > updates:
        spacing //= 2
    return spacing


def compose(
    first: Sequence[Exchange], stream: Iterator[Exchange], shape: BatchShape
) -> tuple[list[Exchange], Iterator[Exchange]]:
    """One update's exchanges: `first`, then as many from the stream as its rows still hold.

    Returns:
      The exchanges and the stream, which still begins with what did not fit.
    """
    chosen = list(first)
    for exchange in stream:
        if len(packs([*chosen, exchange], shape)) > shape.batch_size:
            return chosen, itertools.chain([exchange], stream)
        chosen.append(exchange)
    return chosen, stream


def sizes(exchanges: Sequence[Exchange], shape: BatchShape) -> list[tuple[int, int, int]]:
    """Of every sequence in a batch: the tokens of its row's opening that it continues, its own, and
    those of them that are scored."""
    return [
        (held := shape.shared(e), len(e.student + e.completion[:-1]) - held, len(e.completion))
        for e in exchanges
    ]
