"""What an update learns from: exchanges in an order of chance, as many as its rows hold."""

import itertools
from collections.abc import Iterator, Sequence

import grain.python as grain

from sleep_jax.seeding.sequences import BatchShape, Exchange, packs


def shuffled(exchanges: Sequence[Exchange], seed: int) -> Iterator[Exchange]:
    """An endless stream over the exchanges, every epoch in a new order that the seed fixes.

    Those that are learnt by cross-entropy, too, take turns with the others, however few they are.
    """
    kinds = [[e for e in exchanges if e.supervised is kind] for kind in (True, False)]
    streams = [grain.MapDataset.source(x).seed(seed).shuffle().repeat() for x in kinds if x]
    return itertools.chain.from_iterable(zip(*streams))


def updates_to_draw(exchanges: Sequence[Exchange], shape: BatchShape, seed: int) -> int:
    """Updates of nothing else until all that is learnt by cross-entropy was drawn once."""
    left, stream = {id(e) for e in exchanges if e.supervised}, shuffled(exchanges, seed)
    for updates in itertools.count():
        if not left:
            return updates
        chosen, stream = compose([], stream, shape)
        left -= set(map(id, chosen))


def compose(
    first: Sequence[Exchange], stream: Iterator[Exchange], shape: BatchShape
) -> tuple[list[Exchange], Iterator[Exchange]]:
    """One update's exchanges: `first`, then as many from the stream as its rows still hold.

    Returns:
      The exchanges and the stream, which still begins with what did not fit.
    """
    chosen = list(first)
    for exchange in stream:
        if len(packs([*chosen, exchange], shape)) > shape.rows:
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
