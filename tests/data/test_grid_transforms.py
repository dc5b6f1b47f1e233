"""Transforms and their inverses by hand, and augmentation of tasks."""

import numpy as np
import pytest

from sleep_jax.data.grid_transforms import (
    KINDS,
    SYMMETRIES,
    augment,
    chain,
    enlarge,
    flip,
    leave_out,
    recolour,
    reflect,
    repeat,
    rotate,
    shift,
    transforms,
    transpose,
)
from sleep_jax.data.grids import GridPair, GridTask

GRID = ((1, 2, 3), (4, 5, 6))


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (rotate(90), ((3, 6), (2, 5), (1, 4))),
        (rotate(180), ((6, 5, 4), (3, 2, 1))),
        (rotate(270), ((4, 1), (5, 2), (6, 3))),
        (flip(0), ((4, 5, 6), (1, 2, 3))),
        (flip(1), ((3, 2, 1), (6, 5, 4))),
        (transpose(), ((1, 4), (2, 5), (3, 6))),
        (reflect(0, mirror_first=False), ((1, 2, 3), (4, 5, 6), (4, 5, 6), (1, 2, 3))),
        (reflect(1, mirror_first=True), ((3, 2, 1, 1, 2, 3), (6, 5, 4, 4, 5, 6))),
        (shift(1, 2), ((5, 6, 4), (2, 3, 1))),
        (enlarge(1, 2), ((1, 1, 2, 2, 3, 3), (4, 4, 5, 5, 6, 6))),
        (enlarge(2, 1), ((1, 2, 3), (1, 2, 3), (4, 5, 6), (4, 5, 6))),
        (repeat(2, 1), ((1, 2, 3), (4, 5, 6), (1, 2, 3), (4, 5, 6))),
        (repeat(1, 2), ((1, 2, 3, 1, 2, 3), (4, 5, 6, 4, 5, 6))),
        (chain(flip(1), enlarge(1, 2)), ((3, 3, 2, 2, 1, 1), (6, 6, 5, 5, 4, 4))),
        (recolour([0, 2, 3, 1, 4, 5, 9, 7, 8, 6]), ((2, 3, 1), (4, 5, 9))),
    ],
)
def test_transforms_and_inverses_by_hand(transform, expected):
    assert transform(GRID) == expected
    assert transform.inverse(expected) == GRID


def task(count=3, side=2):
    """Examples of the rule `flip(1)`, on grids that are all different."""
    numbers = np.arange(4 * (count + 1) * side * side) % 7
    grids = (
        numbers[: (count + 1) * side * side].reshape(count + 1, side, side)
        + np.arange(count + 1).reshape(-1, 1, 1) % 3
    )
    pairs = tuple(
        GridPair(given, flip(1)(given)) for given in (tuple(map(tuple, g.tolist())) for g in grids)
    )
    return GridTask("t", pairs[:count], pairs[count:])


def test_transforms_of_every_kind_are_invertible():
    counts = {}
    for kind in KINDS:
        result = transforms(kind, task(), np.random.default_rng(0))
        counts[kind] = len(result)
        for transform in result:
            changed = transform.apply_to_task(task())
            for pair, before in zip(changed.pairs, task().pairs):
                assert transform.inverse(pair.input) == before.input
                # The transformed pairs follow the same rule, conjugated by the transform.
                assert transform.inverse(pair.output) == before.output
    assert counts == {"basic": 11, "size": 3, "chain": 6, "repeat": 3}
    with pytest.raises(ValueError, match="kind='colour'; choose from basic"):
        transforms("colour", task(), np.random.default_rng(0))


def test_symmetries_are_eight():
    assert len({transform(((1, 2), (3, 4))) for transform in SYMMETRIES}) == 8


def test_shift_is_smaller_than_smallest_side():
    drawn = {transforms("basic", task(), np.random.default_rng(i))[-2].name for i in range(40)}
    assert drawn == {f"shift({i}, {j})" for i in range(2) for j in range(2)}


def test_leave_out_by_hand():
    a, b, c = task().examples
    leave_one = leave_out(task(), 1)
    assert [(x.examples, x.tests) for x in leave_one] == [
        ((b, c), (a,)),
        ((a, c), (b,)),
        ((a, b), (c,)),
    ]
    leave_two = leave_out(task(), 2)
    assert [(x.examples, x.tests) for x in leave_two] == [
        *[((b,), (a,)), ((c,), (a,))],
        *[((a,), (b,)), ((c,), (b,))],
        *[((a,), (c,)), ((b,), (c,))],
    ]
    assert leave_out(task(2), 2) == []  # no example would be left


def test_augment_without_kinds_permutes_examples():
    plain = leave_out(task(), 1) + leave_out(task(), 2)
    result = augment(task(), (), 0)
    assert result[:9] == plain and len({*result}) == len(result) <= 12
    for x in result[9:]:  # two examples in the other order
        assert any({*x.examples} == {*y.examples} and x.tests == y.tests for y in plain[:3])


def test_augment_hides_tests_and_respects_limits():
    [test] = task().tests
    result = augment(task(), KINDS, 0)
    assert len(result) == 250 and len({*result}) == 250
    assert result == augment(task(), KINDS, 0) != augment(task(), KINDS, 1)
    inputs = {pair.input for x in augment(task(), (), 0) for pair in x.pairs}
    assert test.input not in inputs
    assert len(augment(task(), KINDS, 0, max_tasks=10**6)) > 250
    wide = augment(task(side=16), KINDS, 0)
    assert wide and max(len(pair.input) for x in wide for pair in x.pairs) == 16


def test_augment_permutes_colours_except_0():
    plain = augment(task(), (), 0)
    result = augment(task(), ("size",), 0, max_tasks=10**6)
    zeros = {tuple(np.equal(x.tests[0].input, 0).ravel()) for x in result}
    first = {tuple(np.equal(t(x.tests[0].input), 0).ravel()) for x in plain for t in SIZES}
    assert zeros == first
    before, after = (
        {cell for x in tasks for row in x.tests[0].input for cell in row}
        for tasks in (plain, result)
    )
    assert 9 not in before and after == {*range(10)}


SIZES = (enlarge(1, 1), *transforms("size", task(), np.random.default_rng(0)))
