"""Grid tasks as questions, and majority votes over replies to several views of a task (Akyürek et
al. 2024, arXiv 2411.07279).
"""

import collections
from collections.abc import Sequence

from sleep_jax.data.grid_transforms import IDENTITY, Transform
from sleep_jax.data.grids import Grid, GridFormat, GridTask
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.evals.items import Item
from sleep_jax.evals.metrics import first_grid
from sleep_jax.interop.prompts import Prompts


def grid_items(tasks: Sequence[GridTask], form: GridFormat) -> list[Item]:
    """A question for every test of every task.

    Args:
      tasks: each `Item.document` is an index into them.
      form: how tasks are written.
    """
    return [
        Item(i, form.question(task, j), (form.grid(test.output),))
        for i, task in enumerate(tasks)
        for j, test in enumerate(task.tests)
    ]


def majority_votes(
    models: AdaptedModels,
    tasks: Sequence[GridTask],
    form: GridFormat,
    views: Sequence[Transform] = (IDENTITY,),
) -> list[list[Grid | None]]:
    """The prediction of each model for the tests of its task, by a vote over views.

    Every test is asked in every view, the predicted grids are transformed back, and the most
    frequent one wins; on a tie, that of the earlier view.

    Args:
      models: as many as tasks.
      tasks: the task of each model.
      form: how tasks are written.
      views: transforms of a task.

    Returns:
      Per model and test a grid; None where no reply had one.
    """
    prompts = Prompts(models.tokenizer)
    questions = [
        [
            prompts.without_context(form.question(view.apply_to_task(task), test))
            for test in range(len(task.tests))
            for view in views
        ]
        for task in tasks
    ]
    out = []
    for task, replies in zip(tasks, models.replies(questions)):
        grids = [first_grid(reply) for reply in replies]
        candidates = [
            grid and view.inverse(grid) for grid, view in zip(grids, list(views) * len(task.tests))
        ]
        n = len(views)
        out.append([most_frequent(candidates[i : i + n]) for i in range(0, len(candidates), n)])
    return out


def most_frequent(grids: Sequence[Grid | None]) -> Grid | None:
    """The most frequent grid, the first on a tie; None if there is none."""
    counts = collections.Counter(grid for grid in grids if grid)
    return counts.most_common(1)[0][0] if counts else None


def is_solved(predicted: Sequence[Grid | None], task: GridTask) -> bool:
    """Whether the predictions for all tests of a task are right in every cell."""
    return list(predicted) == [test.output for test in task.tests]
