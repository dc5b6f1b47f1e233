"""What makes other tasks of a grid task: transforms of its grids, its examples left out one or two
at a time (test-time training, Akyürek et al. 2024, arXiv 2411.07279; SEAL's four kinds).

    basic    turned, mirrored, transposed, shifted; the grid beside its mirror image
    size     every cell twice as high, as wide, or both
    chain    one of basic, then twice the size
    repeat   the grid twice, below itself, beside itself, or both

A transform changes every grid of a task, inputs and outputs alike, so that the rule stays one.
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
    """A change of grids.

    Attributes:
      name: its name, e.g. `rotate(90)`.
      forward: what it does to an array [height, width].
      back: what undoes it; every one of this module can be undone.
    """

    name: str
    forward: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]

    def __call__(self, grid: Grid) -> Grid:
        """The changed grid."""
        return _tuples(self.forward(np.asarray(grid)))

    @property
    def inverse(self) -> "Transform":
        """What undoes it. That of one which enlarges takes a part of whatever grid it is given."""
        return Transform(f"inverse {self.name}", self.back, self.forward)

    def of(self, task: GridTask) -> GridTask:
        """The task with every grid changed."""

        def change(pairs):
            return tuple(GridPair(self(pair.input), self(pair.output)) for pair in pairs)

        return dataclasses.replace(task, examples=change(task.examples), tests=change(task.tests))


def _tuples(array: np.ndarray) -> Grid:
    return tuple(map(tuple, array.tolist()))


def rotate(degrees: int) -> Transform:
    """Turned to the left by 90, 180 or 270 degrees."""
    k = degrees // 90
    return Transform(f"rotate({degrees})", lambda x: np.rot90(x, k), lambda x: np.rot90(x, -k))


def flip(axis: int) -> Transform:
    """Mirrored: 0 upside down, 1 left to right."""
    return Transform(f"flip({axis})", lambda x: np.flip(x, axis), lambda x: np.flip(x, axis))


def transpose() -> Transform:
    """Rows become columns."""
    return Transform("transpose", np.transpose, np.transpose)


def reflect(axis: int, *, mirror_first: bool) -> Transform:
    """The grid and its mirror image, one below the other (axis 0) or side by side (1)."""

    def forward(x):
        both = (np.flip(x, axis), x) if mirror_first else (x, np.flip(x, axis))
        return np.concatenate(both, axis)

    def back(x):
        return np.split(x, 2, axis)[int(mirror_first)] if x.shape[axis] % 2 == 0 else x

    return Transform(f"reflect({axis}, mirror_first={mirror_first})", forward, back)


def shift(down: int, right: int) -> Transform:
    """Moved by some cells; what leaves at one side comes in at the other."""
    return Transform(
        f"shift({down}, {right})",
        lambda x: np.roll(x, (down, right), (0, 1)),
        lambda x: np.roll(x, (-down, -right), (0, 1)),
    )


def enlarge(height: int, width: int) -> Transform:
    """Every cell a block of cells."""
    return Transform(
        f"enlarge({height}, {width})",
        lambda x: x.repeat(height, 0).repeat(width, 1),
        lambda x: x[::height, ::width],
    )


def repeat(down: int, right: int) -> Transform:
    """The grid several times, below and beside itself."""
    return Transform(
        f"repeat({down}, {right})",
        lambda x: np.tile(x, (down, right)),
        lambda x: x[: max(1, len(x) // down), : max(1, x.shape[1] // right)],
    )


def chain(*transforms: Transform) -> Transform:
    """One after the other."""

    def forward(x):
        for transform in transforms:
            x = transform.forward(x)
        return x

    def back(x):
        for transform in reversed(transforms):
            x = transform.back(x)
        return x

    return Transform(f"chain({', '.join(t.name for t in transforms)})", forward, back)


def recolour(colours: Sequence[int]) -> Transform:
    """Colour i becomes `colours[i]`, a permutation of all ten."""
    table = np.asarray(colours)
    return Transform(
        f"recolour({table.tolist()})", lambda x: table[x], lambda x: table.argsort()[x]
    )


IDENTITY = Transform("identity", lambda x: x, lambda x: x)
TURNS = (rotate(90), rotate(270), rotate(180), flip(0), flip(1))
# The eight symmetries of a square.
SYMMETRIES = (IDENTITY, *TURNS, transpose(), chain(transpose(), rotate(180)))


def transforms(kind: str, task: GridTask, rng: np.random.Generator) -> list[Transform]:
    """Those of a kind, one of `KINDS`; how far to shift is drawn, below the least side of all."""
    if kind == "basic":
        grids = [np.shape(grid) for pair in task.pairs for grid in (pair.input, pair.output)]
        furthest = [min(MAX_SHIFT, min(side) - 1) for side in zip(*grids)]
        mirrored = [reflect(axis, mirror_first=first) for first in (True, False) for axis in (0, 1)]
        moved = shift(*(int(rng.integers(most + 1)) for most in furthest))
        return [*TURNS, *mirrored, moved, transpose()]
    if kind == "size":
        return [enlarge(2, 2), enlarge(2, 1), enlarge(1, 2)]
    if kind == "chain":
        return [chain(turn, enlarge(2, 2)) for turn in (*TURNS, transpose())]
    if kind == "repeat":
        return [repeat(2, 1), repeat(1, 2), repeat(2, 2)]
    raise ValueError(f"kind={kind!r}; choose from {', '.join(KINDS)}")


def leave_out(task: GridTask, count: int) -> list[GridTask]:
    """Tasks whose test is an example of this one: one example asks, `count` - 1 more are left out,
    the others show. None of them is without an example."""
    out = []
    for i, asked in enumerate(task.examples):
        others = task.examples[:i] + task.examples[i + 1 :]
        for shown in itertools.combinations(others, max(0, len(others) + 1 - count)):
            if shown:
                out.append(dataclasses.replace(task, examples=shown, tests=(asked,)))
    return out


def augment(
    task: GridTask,
    kinds: Sequence[str],
    seed: int,
    *,
    leave: Sequence[int] = (1, 2),
    most: int = 250,
) -> list[GridTask]:
    """What there is to practise a task with, without any of its tests.

    The tasks with one example, and with two, left out; their transforms; and of all these a second
    copy with its examples in another order and, where there is any kind, the colours 1 to 9
    permuted. None comes twice, none has a grid beyond ARC's 30 cells.

    Args:
      task: the task.
      kinds: of transforms, some of `KINDS`.
      seed: of what is drawn.
      leave: how many examples are left out.
      most: of so many a random choice is left.
    """
    rng = np.random.default_rng(seed)
    asked = dataclasses.replace(task, tests=())  # a test must not even bound a shift
    plain = [x for count in leave for x in leave_out(asked, count)]
    changes = [t for kind in kinds for t in transforms(kind, asked, rng)]
    first = plain + [x for t in changes for x in map(t.of, plain) if _fits(x)]
    second = []
    for x in dict.fromkeys(first):
        if kinds:
            x = recolour([0, *rng.permutation(np.arange(1, COLOURS))]).of(x)
        order = rng.permutation(len(x.examples))
        second.append(dataclasses.replace(x, examples=tuple(x.examples[i] for i in order)))
    out = list(dict.fromkeys([*first, *second]))
    if len(out) > most:
        out = [out[i] for i in sorted(rng.permutation(len(out))[:most])]
    return out


def _fits(task: GridTask) -> bool:
    sides = (np.shape(grid) for pair in task.pairs for grid in (pair.input, pair.output))
    return max(map(max, sides)) <= MAX_SIDE
