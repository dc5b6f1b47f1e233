"""Generated grid tasks: a rule of a few families, shown on a few pairs of small random grids."""

from collections.abc import Callable

import numpy as np

from sleep_jax.data.grid_transforms import chain, flip, rotate, transpose
from sleep_jax.data.grids import COLOURS, GridTask, parse_task

SHAPE = (2, 2)  # cells: small enough for a tiny decoder to learn rotations in minutes
EXAMPLES = 3
PALETTE = 5  # colours of a task
Rule = Callable[[np.ndarray], np.ndarray]
Shape = tuple[int, int]


def _recolour(rng: np.random.Generator, palette: np.ndarray, shape: Shape) -> Rule:
    """Every cell of one colour gets another one."""
    old, new = palette[0], (palette[0] + rng.integers(1, COLOURS)) % COLOURS
    return lambda x: np.where(x == old, new, x)


def _fill(rng: np.random.Generator, palette: np.ndarray, shape: Shape) -> Rule:
    """A whole row or column gets one colour."""
    axis = rng.integers(2)
    at, colour = rng.integers(shape[axis]), rng.integers(COLOURS)

    def rule(x):
        x = x.copy()
        np.moveaxis(x, axis, 0)[at] = colour
        return x

    return rule


def _one_of(*transforms) -> Callable:
    return lambda rng, *_: transforms[rng.integers(len(transforms))].forward


FAMILIES = {
    "recolour": _recolour,
    "fill": _fill,
    "flip": _one_of(flip(0), flip(1)),
    "rotate": _one_of(rotate(90), rotate(180), rotate(270)),
    "transpose": _one_of(transpose(), chain(transpose(), rotate(180))),
}


def draw_task(
    rng: np.random.Generator, name: str = "", shape: Shape = SHAPE, shown: int = EXAMPLES
) -> GridTask:
    """A task of a random family; its rule changes every grid that is shown.

    Args:
      rng: random generator.
      name: suffix of its name, after that of the family.
      shape: rows and columns of its grids, each at least 2.
      shown: example pairs.
    """
    family = str(rng.choice(list(FAMILIES)))
    palette = rng.choice(COLOURS, PALETTE, replace=False)
    rule = FAMILIES[family](rng, palette, shape)
    pairs = []
    while len(pairs) <= shown:
        grid = rng.choice(palette, shape)
        made = rule(grid)
        if not np.array_equal(grid, made):
            pairs.append({"input": grid.tolist(), "output": made.tolist()})
    return parse_task(f"{family}{name}", {"train": pairs[:shown], "test": pairs[shown:]})


def draw_tasks(seed: int, count: int) -> list[GridTask]:
    """Tasks of random families."""
    rng = np.random.default_rng(seed)
    return [draw_task(rng, f"-{i}") for i in range(count)]
