"""Grid tasks as questions, and replies to several views of a task put to the vote (Akyürek et al.
2024, arXiv 2411.07279)."""

import collections
from collections.abc import Sequence

from sleep_jax.data.grid_transforms import IDENTITY, Transform
from sleep_jax.data.grids import Grid, GridFormat, GridTask
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.evals.items import Item
from sleep_jax.evals.metrics import first_grid
from sleep_jax.interop.prompts import Prompts


def grid_items(tasks: Sequence[GridTask], form: GridFormat) -> list[Item]:
    """A question for every test of every task; the document is the task."""
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
    """What each model replies to the tests of its task: every test is asked in every view, replies
    are turned back, the most frequent grid wins, the earlier view of equals.

    Args:
      models: as many as tasks.
      tasks: of each model.
      form: how tasks are written.
      views: transforms of a task, each with an inverse.

    Returns:
      Per model and test a grid; None where no view had one.
    """
    prompts = Prompts(models.tokenizer)
    asked = [
        [
            prompts.without_context(form.question(view.apply_to_task(task), test))
            for test in range(len(task.tests))
            for view in views
        ]
        for task in tasks
    ]
    out = []
    for task, replies in zip(tasks, models.replies(asked)):
        grids = [first_grid(reply) for reply in replies]
        back = [
            grid and view.inverse(grid) for grid, view in zip(grids, list(views) * len(task.tests))
        ]
        count = len(views)
        out.append([most_frequent(back[i : i + count]) for i in range(0, len(back), count)])
    return out


def most_frequent(grids: Sequence[Grid | None]) -> Grid | None:
    """The grid that comes most often, the first of equals; None if there is none."""
    found = collections.Counter(grid for grid in grids if grid)
    return found.most_common(1)[0][0] if found else None


def is_solved(predicted: Sequence[Grid | None], task: GridTask) -> bool:
    """Whether all tests of a task are right in every cell."""
    return list(predicted) == [test.output for test in task.tests]
