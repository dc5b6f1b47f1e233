"""The stream of exchanges of a night, and the batch of an update."""

import collections
import dataclasses
import itertools

from sample_exchanges import EXCHANGES, SHAPE, exchange

from sleep_jax.seeding.mixture import (
    fill_batch,
    sequence_sizes,
    shuffled,
    updates_to_draw,
    widest_spacing,
)
from sleep_jax.seeding.sequences import BatchShape, Exchange, pack_exchanges


def test_shuffled_is_endless_and_every_epoch_is_complete():
    stream = list(itertools.islice(shuffled(EXCHANGES, 3), 25))
    epochs = [[id(e) for e in stream[i : i + 5]] for i in range(0, 25, 5)]
    assert all(set(epoch) == set(map(id, EXCHANGES)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1
    again = list(itertools.islice(shuffled(EXCHANGES, 3), 25))
    assert all(a is b for a, b in zip(again, stream))
    other = list(itertools.islice(shuffled(EXCHANGES, 4), 25))
    assert any(a is not b for a, b in zip(other, stream))


def test_shuffled_alternates_supervised_and_other_exchanges():
    supervised = [dataclasses.replace(EXCHANGES[i], supervised=True) for i in (0, 1)]
    stream = list(itertools.islice(shuffled([*supervised, *EXCHANGES[2:]], 3), 24))
    assert [e.supervised for e in stream] == [True, False] * 12
    assert all(
        {id(a), id(b)} == set(map(id, supervised)) for a, b in zip(stream[::4], stream[2::4])
    )


def test_shuffled_spacing_is_the_number_of_others_in_between():
    single = dataclasses.replace(EXCHANGES[0], supervised=True)
    stream = list(itertools.islice(shuffled([single, *EXCHANGES[1:]], 3, spacing=3), 16))
    assert [e.supervised for e in stream] == [True, False, False, False] * 4
    others = [id(e) for e in stream if not e.supervised]
    assert all(set(others[i : i + 4]) == set(map(id, EXCHANGES[1:])) for i in (0, 4, 8))
    only = shuffled([single], 3, spacing=3)
    assert all(e is single for e in itertools.islice(only, 5))


def test_shuffled_draws_the_share_of_what_was_known():
    new = [exchange(4), exchange(4), exchange(4)]
    known = [exchange(2, None, "rehearse"), exchange(2, None, "earlier")]
    stream = list(itertools.islice(shuffled([*known, *new], 3, known_share=0.5), 18))
    # After 4 new tokens it takes two known exchanges of 2 until they are half of all.
    assert [e.is_known for e in stream] == [False, True, True] * 6
    for kind, all_of_it in ((False, new), (True, known)):
        drawn = [e for e in stream if e.is_known == kind]
        epochs = [drawn[i : i + len(all_of_it)] for i in range(0, 6, len(all_of_it))]
        assert all(set(map(id, epoch)) == set(map(id, all_of_it)) for epoch in epochs)


def test_fill_batch_has_the_share_of_what_was_known_in_every_update():
    known = [exchange(3, None, "rehearse") for _ in range(3)]
    shape = BatchShape(batch_size=4, max_length=64, max_target_length=48)
    stream = shuffled([*EXCHANGES, *known], 3, known_share=0.25)
    for _ in range(6):
        chosen, stream = fill_batch([], stream, shape)
        tokens = sum(len(e.completion) for e in chosen)
        known_tokens = sum(len(e.completion) for e in chosen if e.is_known)
        assert abs(known_tokens - 0.25 * tokens) <= 2 * 10  # the longest of either end


def test_shuffled_without_a_share_or_without_one_of_both_draws_from_all():
    known = [exchange(3, None, "rehearse") for _ in range(3)]
    new = [e for e in EXCHANGES if not e.is_known]

    def ids(exchanges, **options):
        return [id(e) for e in itertools.islice(shuffled(exchanges, 3, **options), 20)]

    assert ids([*new, *known], known_share=0.0) == ids([*new, *known])
    assert ids(known, known_share=0.5) == ids(known)
    assert ids(new, known_share=0.5) == ids(new)


def test_updates_to_draw_covers_every_supervised_exchange_twice():
    supervised = [dataclasses.replace(e, supervised=True) for e in EXCHANGES * 3]
    exchanges, seed = [*supervised, *EXCHANGES], 5
    updates = updates_to_draw(exchanges, SHAPE, seed)
    drawn, stream = [], shuffled(exchanges, seed)
    for _ in range(updates):
        before = collections.Counter(map(id, drawn))
        chosen, stream = fill_batch([], stream, SHAPE)
        drawn += chosen
    after = collections.Counter(map(id, drawn))
    assert min(after[id(e)] for e in supervised) == 2 and min(before[id(e)] for e in supervised) < 2
    assert updates_to_draw(EXCHANGES, SHAPE, seed) == 0


def test_widest_spacing_is_the_widest_that_the_updates_allow():
    supervised = [dataclasses.replace(e, supervised=True) for e in EXCHANGES[:2]]
    exchanges, seed = [*supervised, *EXCHANGES * 8], 5
    # With many updates the spacing is the ratio of both kinds; with none they alternate.
    assert widest_spacing(exchanges, SHAPE, seed, updates=1000) == 20
    assert widest_spacing(exchanges, SHAPE, seed, updates=0) == 1
    assert widest_spacing(EXCHANGES, SHAPE, seed, updates=0) == len(EXCHANGES)
    assert widest_spacing(supervised, SHAPE, seed, updates=0) == 1
    needed = {n: updates_to_draw(exchanges, SHAPE, seed, n) for n in (20, 10, 5)}
    assert needed[5] < needed[10] < needed[20]
    assert widest_spacing(exchanges, SHAPE, seed, needed[10]) == 10
    assert widest_spacing(exchanges, SHAPE, seed, needed[10] - 1) == 5


def test_fill_batch_fills_rows_and_loses_no_exchange():
    expected = list(itertools.islice(shuffled(EXCHANGES, 0), 40))
    stream, first, taken = shuffled(EXCHANGES, 0), [exchange(4)], []
    for _ in range(8):
        chosen, stream = fill_batch(first, stream, SHAPE)
        assert chosen[0] is first[0] and len(pack_exchanges(chosen, SHAPE)) <= SHAPE.batch_size
        # The next of the stream would have needed a row more.
        following = expected[len(taken) + len(chosen) - 1]
        assert len(pack_exchanges([*chosen, following], SHAPE)) > SHAPE.batch_size
        taken += chosen[1:]
    assert len(taken) >= 16 and all(a is b for a, b in zip(taken, expected))
    assert next(stream) is expected[len(taken)]


def test_fill_batch_with_a_finite_stream():
    chosen, stream = fill_batch([], iter(EXCHANGES[:2]), SHAPE)
    assert chosen == EXCHANGES[:2] and list(stream) == []


def test_sequence_sizes_count_the_shared_prefix_separately():
    shape = BatchShape(batch_size=2, max_length=24, max_target_length=16, shared_prefix=(7, 8))
    sharing = Exchange(0, (7, 8, 9), (1,), (4, 5, 6), "answer")
    other = Exchange(0, (7, 9), (1,), (4,), "answer")
    # The last token of a completion is scored and not read.
    assert sequence_sizes([sharing, other], shape) == [(2, 3, 3), (0, 2, 1)]
