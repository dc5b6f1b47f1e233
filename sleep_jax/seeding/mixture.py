"""Which exchanges an update learns from: in random order, as many as its rows hold."""

import itertools
from collections.abc import Iterator, Sequence

import grain.python as grain

from sleep_jax.seeding.sequences import BatchShape, Exchange, pack_exchanges

EPOCHS = 2  # over supervised exchanges, as over SEAL's rewarded dreams (ReST-EM)


def shuffled(
    exchanges: Sequence[Exchange], seed: int, spacing: int = 1, known_share: float = 0.0
) -> Iterator[Exchange]:
    """An endless stream over the exchanges, every epoch in a new order that the seed fixes.

    Args:
      exchanges: at least one.
      seed: of the order.
      spacing: unsupervised exchanges that follow each supervised one; without effect where one
        of the two is missing.
      known_share: share of the target tokens that were known before the day; the known and the
        new exchanges then have epochs of their own. 0: as drawn from all; without effect where
        one of the two is missing.
    """
    known = [e for e in exchanges if e.is_known and e.completion]
    new = [e for e in exchanges if not e.is_known]
    if known_share and known and any(e.completion for e in new):
        return _in_shares(shuffled(new, seed, spacing), shuffled(known, seed), known_share)
    kinds = [[e for e in exchanges if e.supervised is kind] for kind in (True, False)]
    streams = [iter(grain.MapDataset.source(x).seed(seed).shuffle().repeat()) for x in kinds if x]
    turns = [streams[0], *[streams[-1]] * spacing] if len(streams) > 1 else streams
    return itertools.chain.from_iterable(zip(*turns))


def _in_shares(
    new: Iterator[Exchange], known: Iterator[Exchange], known_share: float
) -> Iterator[Exchange]:
    """Both streams in turn, so that of the target tokens so far the share of the known ones is off
    by at most one exchange."""
    total = total_known = 0
    while True:
        is_known = total_known < known_share * total
        exchange = next(known if is_known else new)
        total += len(exchange.completion)
        total_known += len(exchange.completion) * is_known
        yield exchange


def updates_to_draw(
    exchanges: Sequence[Exchange],
    shape: BatchShape,
    seed: int,
    spacing: int = 1,
    known_share: float = 0.0,
) -> int:
    """Updates without rollouts until every supervised exchange was drawn EPOCHS times.

    Args:
      exchanges, seed, spacing, known_share: as for `shuffled`.
      shape: of an update.
    """
    left = EPOCHS * sum(e.supervised for e in exchanges)
    stream = shuffled(exchanges, seed, spacing, known_share)
    for updates in itertools.count():
        if left <= 0:
            return updates
        batch, stream = fill_batch([], stream, shape)
        left -= sum(e.supervised for e in batch)


def widest_spacing(
    exchanges: Sequence[Exchange],
    shape: BatchShape,
    seed: int,
    updates: int,
    known_share: float = 0.0,
) -> int:
    """The widest `spacing` of `shuffled` that draws every supervised exchange EPOCHS times.

    Args:
      exchanges, seed, known_share: as for `shuffled`.
      shape: of an update.
      updates: that have to draw them.

    Returns:
      The ratio of unsupervised to supervised exchanges, halved until it is small enough, or 1.
    """
    supervised = sum(e.supervised for e in exchanges)
    spacing = max(1, (len(exchanges) - supervised) // max(supervised, 1))
    while spacing > 1 and updates_to_draw(exchanges, shape, seed, spacing, known_share) > updates:
        spacing //= 2
    return spacing


def fill_batch(
    rollouts: Sequence[Exchange], stream: Iterator[Exchange], shape: BatchShape
) -> tuple[list[Exchange], Iterator[Exchange]]:
    """One update's exchanges: rollouts, then as many from the stream as the rows still hold.

    Returns:
      (exchanges, stream): the stream begins with the first exchange that did not fit.
    """
    batch = list(rollouts)
    for exchange in stream:
        if len(pack_exchanges([*batch, exchange], shape)) > shape.batch_size:
            return batch, itertools.chain([exchange], stream)
        batch.append(exchange)
    return batch, stream


def sequence_sizes(exchanges: Sequence[Exchange], shape: BatchShape) -> list[tuple[int, int, int]]:
    """For every exchange of a batch: tokens of the shared prefix that it attends to, tokens of its
    own, and its target tokens."""
    sizes = []
    for e in exchanges:
        shared = shape.shared_length(e)
        sizes.append((shared, len(e.student + e.completion[:-1]) - shared, len(e.completion)))
    return sizes
