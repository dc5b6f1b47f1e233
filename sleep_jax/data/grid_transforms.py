"""Augmentation of a grid task: transforms of its grids, and leaving out one or two of its examples
(test-time training, Akyürek et al. 2024, arXiv 2411.07279), in SEAL's four kinds.

    basic    rotated, mirrored, transposed, shifted; the grid beside its mirror image
    size     every cell twice as high, as wide, or both
    chain    one of basic, then twice the size
    repeat   the grid twice, below itself, beside itself, or both

A transform changes every grid of a task, inputs and outputs alike, so that there is one rule.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from sleep_jax.data.grids import COLOURS, MAX_SIDE, Grid, GridPair, GridTask

MAX_SHIFT = 3  # cells
KINDS = ("basic", "size", "chain", "repeat")


@dataclasses.dataclass(frozen=True)
class Transform:
    """A function of grids with an inverse.

    Attributes:
      name: e.g. `rotate(90)`.
      forward: from an array [height, width] to the transformed one.
      backward: its inverse.
    """

    name: str
    forward: Callable[[np.ndarray], np.ndarray]
    backward: Callable[[np.ndarray], np.ndarray]

    def __call__(self, grid: Grid) -> Grid:
        """The transformed grid."""
        return _tuples(self.forward(np.asarray(grid)))

    @property
    def inverse(self) -> "Transform":
        """The inverse transform. That of an enlarging one crops or subsamples any grid."""
        return Transform(f"inverse {self.name}", self.backward, self.forward)

    def apply_to_task(self, task: GridTask) -> GridTask:
        """The task with every grid transformed."""

        def apply(pairs):
            return tuple(GridPair(self(pair.input), self(pair.output)) for pair in pairs)

        return dataclasses.replace(task, examples=apply(task.examples), tests=apply(task.tests))


def _tuples(array: np.ndarray) -> Grid:
    return tuple(map(tuple, array.tolist()))


def rotate(degrees: int) -> Transform:
    """Counterclockwise rotation by 90, 180 or 270 degrees."""
    k = degrees // 90
    return Transform(f"rotate({degrees})", lambda x: np.rot90(x, k), lambda x: np.rot90(x, -k))


def flip(axis: int) -> Transform:
    """Mirror image along an axis: 0 upside down, 1 left to right."""
    return Transform(f"flip({axis})", lambda x: np.flip(x, axis), lambda x: np.flip(x, axis))


def transpose() -> Transform:
    """Exchanges rows and columns."""
    return Transform("transpose", np.transpose, np.transpose)


def reflect(axis: int, *, mirror_first: bool) -> Transform:
    """The grid and its mirror image, one below the other (axis 0) or side by side (1)."""

    def forward(x):
        both = (np.flip(x, axis), x) if mirror_first else (x, np.flip(x, axis))
        return np.concatenate(both, axis)

    def backward(x):
        return np.split(x, 2, axis)[int(mirror_first)] if x.shape[axis] % 2 == 0 else x

    return Transform(f"reflect({axis}, mirror_first={mirror_first})", forward, backward)


def shift(down: int, right: int) -> Transform:
    """Cyclic shift by a number of cells."""
    return Transform(
        f"shift({down}, {right})",
        lambda x: np.roll(x, (down, right), (0, 1)),
        lambda x: np.roll(x, (-down, -right), (0, 1)),
    )


def enlarge(height: int, width: int) -> Transform:
    """Repeats every cell `height` times down and `width` times to the right."""
    return Transform(
        f"enlarge({height}, {width})",
        lambda x: x.repeat(height, 0).repeat(width, 1),
        lambda x: x[::height, ::width],
    )


def repeat(down: int, right: int) -> Transform:
    """Tiles the grid `down` times below and `right` times beside itself."""
    return Transform(
        f"repeat({down}, {right})",
        lambda x: np.tile(x, (down, right)),
        lambda x: x[: max(1, len(x) // down), : max(1, x.shape[1] // right)],
    )


def chain(*transforms: Transform) -> Transform:
    """Applies transforms in order."""

    def forward(x):
        for transform in transforms:
            x = transform.forward(x)
        return x

    def backward(x):
        for transform in reversed(transforms):
            x = transform.backward(x)
        return x

    return Transform(f"chain({', '.join(t.name for t in transforms)})", forward, backward)


def recolour(colours: Sequence[int]) -> Transform:
    """Colour i becomes `colours[i]`, a permutation of all ten."""
    table = np.asarray(colours)
    return Transform(
        f"recolour({table.tolist()})", lambda x: table[x], lambda x: table.argsort()[x]
    )


IDENTITY = Transform("identity", lambda x: x, lambda x: x)
ROTATIONS_AND_FLIPS = (rotate(90), rotate(270), rotate(180), flip(0), flip(1))
# The eight symmetries of a square.
SYMMETRIES = (IDENTITY, *ROTATIONS_AND_FLIPS, transpose(), chain(transpose(), rotate(180)))


def transforms(kind: str, task: GridTask, rng: np.random.Generator) -> list[Transform]:
    """The transforms of a kind.

    Args:
      kind: one of `KINDS`.
      task: its smallest grid bounds the shift.
      rng: draws the shift.

    Raises:
      ValueError: there is no such kind.
    """
    if kind == "basic":
        grids = [np.shape(grid) for pair in task.pairs for grid in (pair.input, pair.output)]
        furthest = [min(MAX_SHIFT, min(side) - 1) for side in zip(*grids)]
        mirrored = [reflect(axis, mirror_first=first) for first in (True, False) for axis in (0, 1)]
        moved = shift(*(int(rng.integers(most + 1)) for most in furthest))
        return [*ROTATIONS_AND_FLIPS, *mirrored, moved, transpose()]
    if kind == "size":
        return [enlarge(2, 2), enlarge(2, 1), enlarge(1, 2)]
    if kind == "chain":
        return [chain(turn, enlarge(2, 2)) for turn in (*ROTATIONS_AND_FLIPS, transpose())]
    if kind == "repeat":
        return [repeat(2, 1), repeat(1, 2), repeat(2, 2)]
    raise ValueError(f"kind={kind!r}; choose from {', '.join(KINDS)}")


def leave_out(task: GridTask, count: int) -> list[GridTask]:
    """Leave-`count`-out tasks: one example becomes the test, `count` - 1 more are dropped, the rest
    are the examples; tasks without an example are left out.
    """
    out = []
    for i, test in enumerate(task.examples):
        others = task.examples[:i] + task.examples[i + 1 :]
        for examples in itertools.combinations(others, max(0, len(others) + 1 - count)):
            if examples:
                out.append(dataclasses.replace(task, examples=examples, tests=(test,)))
    return out


def augment(
    task: GridTask,
    kinds: Sequence[str],
    seed: int,
    *,
    left_out: Sequence[int] = (1, 2),
    max_tasks: int = 250,
) -> list[GridTask]:
    """Training tasks made of the examples of a task, never of its tests.

    They are the leave-one-out and leave-two-out tasks, their transforms, and of each of these a
    second copy with its examples permuted and, if there is any kind, the colours 1 to 9 permuted.
    Duplicates and tasks with a grid of more than ARC's 30 cells a side are left out.

    Args:
      task: the task.
      kinds: of transforms, some of `KINDS`.
      seed: of the random draws.
      left_out: numbers of examples to leave out.
      max_tasks: a random choice of this size where there are more.
    """
    rng = np.random.default_rng(seed)
    without_tests = dataclasses.replace(task, tests=())  # a test must not even bound a shift
    plain = [x for count in left_out for x in leave_out(without_tests, count)]
    applied = [t for kind in kinds for t in transforms(kind, without_tests, rng)]
    first = plain + [x for t in applied for x in map(t.apply_to_task, plain) if _fits(x)]
    second = []
    for x in dict.fromkeys(first):
        if kinds:
            x = recolour([0, *rng.permutation(np.arange(1, COLOURS))]).apply_to_task(x)
        order = rng.permutation(len(x.examples))
        second.append(dataclasses.replace(x, examples=tuple(x.examples[i] for i in order)))
    out = list(dict.fromkeys([*first, *second]))
    if len(out) > max_tasks:
        out = [out[i] for i in sorted(rng.permutation(len(out))[:max_tasks])]
    return out


def _fits(task: GridTask) -> bool:
    sides = (np.shape(grid) for pair in task.pairs for grid in (pair.input, pair.output))
    return max(map(max, sides)) <= MAX_SIDE
