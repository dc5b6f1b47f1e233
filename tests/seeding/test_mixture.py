"""The stream of a night and the mixture of an update."""

import collections
import dataclasses
import itertools

from few_exchanges import EXCHANGES, SHAPE, exchange

from sleep_jax.seeding.mixture import (
    compose,
    shuffled,
    sizes,
    updates_to_draw,
    widest_spacing,
)
from sleep_jax.seeding.sequences import BatchShape, Exchange, packs


def test_the_stream_is_endless_and_every_epoch_is_complete():
    stream = list(itertools.islice(shuffled(EXCHANGES, 3), 25))
    epochs = [[id(e) for e in stream[i : i + 5]] for i in range(0, 25, 5)]
    assert all(set(epoch) == set(map(id, EXCHANGES)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1
    again = list(itertools.islice(shuffled(EXCHANGES, 3), 25))
    assert all(a is b for a, b in zip(again, stream))
    other = list(itertools.islice(shuffled(EXCHANGES, 4), 25))
    assert any(a is not b for a, b in zip(other, stream))


def test_what_is_learnt_by_cross_entropy_takes_turns_with_the_rest_however_little_it_is():
    lessons = [dataclasses.replace(EXCHANGES[i], supervised=True) for i in (0, 1)]
    stream = list(itertools.islice(shuffled([*lessons, *EXCHANGES[2:]], 3), 24))
    assert [e.supervised for e in stream] == [True, False] * 12
    assert all({id(a), id(b)} == set(map(id, lessons)) for a, b in zip(stream[::4], stream[2::4]))


def test_of_the_others_as_many_come_in_between_as_asked_for():
    lesson = dataclasses.replace(EXCHANGES[0], supervised=True)
    stream = list(itertools.islice(shuffled([lesson, *EXCHANGES[1:]], 3, spacing=3), 16))
    assert [e.supervised for e in stream] == [True, False, False, False] * 4
    others = [id(e) for e in stream if not e.supervised]
    assert all(set(others[i : i + 4]) == set(map(id, EXCHANGES[1:])) for i in (0, 4, 8))
    only = shuffled([lesson], 3, spacing=3)
    assert all(e is lesson for e in itertools.islice(only, 5))


def test_updates_until_every_lesson_was_drawn_twice():
    lessons = [dataclasses.replace(e, supervised=True) for e in EXCHANGES * 3]
    exchanges, seed = [*lessons, *EXCHANGES], 5
    updates = updates_to_draw(exchanges, SHAPE, seed)
    drawn, stream = [], shuffled(exchanges, seed)
    for _ in range(updates):
        before = collections.Counter(map(id, drawn))
        chosen, stream = compose([], stream, SHAPE)
        drawn += chosen
    after = collections.Counter(map(id, drawn))
    assert min(after[id(e)] for e in lessons) == 2 and min(before[id(e)] for e in lessons) < 2
    assert updates_to_draw(EXCHANGES, SHAPE, seed) == 0


def test_lessons_leave_the_others_as_much_room_as_the_updates_allow():
    lessons = [dataclasses.replace(e, supervised=True) for e in EXCHANGES[:2]]
    exchanges, seed = [*lessons, *EXCHANGES * 8], 5
    # With time enough they have their share of all; with none they take turns.
    assert widest_spacing(exchanges, SHAPE, seed, updates=1000) == 20
    assert widest_spacing(exchanges, SHAPE, seed, updates=0) == 1
    assert widest_spacing(EXCHANGES, SHAPE, seed, updates=0) == len(EXCHANGES)
    assert widest_spacing(lessons, SHAPE, seed, updates=0) == 1
    needed = {n: updates_to_draw(exchanges, SHAPE, seed, n) for n in (20, 10, 5)}
    assert needed[5] < needed[10] < needed[20]
    assert widest_spacing(exchanges, SHAPE, seed, needed[10]) == 10
    assert widest_spacing(exchanges, SHAPE, seed, needed[10] - 1) == 5


def test_updates_are_filled_and_nothing_of_the_stream_is_lost():
    wanted = list(itertools.islice(shuffled(EXCHANGES, 0), 40))
    stream, first, taken = shuffled(EXCHANGES, 0), [exchange(4)], []
    for _ in range(8):
        chosen, stream = compose(first, stream, SHAPE)
        assert chosen[0] is first[0] and len(packs(chosen, SHAPE)) <= SHAPE.batch_size
        # The next of the stream would have needed a row more.
        following = wanted[len(taken) + len(chosen) - 1]
        assert len(packs([*chosen, following], SHAPE)) > SHAPE.batch_size
        taken += chosen[1:]
    assert len(taken) >= 16 and all(a is b for a, b in zip(taken, wanted))
    assert next(stream) is wanted[len(taken)]


def test_a_stream_that_ends_is_used_up():
    chosen, stream = compose([], iter(EXCHANGES[:2]), SHAPE)
    assert chosen == EXCHANGES[:2] and list(stream) == []


def test_sizes_count_what_an_opening_holds_once():
    shape = BatchShape(batch_size=2, max_length=24, max_target_length=16, shared_prefix=(7, 8))
    continues = Exchange(0, (7, 8, 9), (1,), (4, 5, 6), "answer")
    alone = Exchange(0, (7, 9), (1,), (4,), "answer")
    # The last token of a completion is scored and not read.
    assert sizes([continues, alone], shape) == [(2, 3, 3), (0, 2, 1)]
