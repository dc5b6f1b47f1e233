"""Tasks of lm-evaluation-harness in a run: they are measured before and after every night
(`evaluation.tasks`), and the gate may watch them (`gate.tasks`)."""

import math
from collections.abc import Callable

from sleep_jax.experiment import Experiment
from sleep_jax.phases.run_state import PhaseLogger, RunState
from sleep_jax.tasks.task_scores import Tasks, TaskScore, falls, side_by_side


def scores_of_tasks(
    experiment: Experiment, run: RunState, variables, *, name: str = "", quiet: bool | None = None
) -> list[TaskScore]:
    """The scores of a model on the tasks of a night.

    Args:
      experiment, run: whose tasks, and whose record own questions are taken from.
      variables: collections of the model.
      name: of the model, for progress.
      quiet: show no progress; None: as the variable SLEEP_JAX_QUIET says.
    """
    from sleep_jax.tasks.harness import HarnessModel, thought_tokens

    settings = experiment.settings
    model = HarnessModel(
        experiment.cfg,
        variables,
        experiment.tokenizer,
        name=name,
        thought_tokens=thought_tokens(settings),
        quiet=quiet,
    )
    tasks = Tasks(settings.evaluation.tasks, run.record)
    return tasks.measure(model, limit=settings.evaluation.task_items)


def falls_of_tasks(
    experiment: Experiment, run: RunState
) -> Callable[[dict, dict], dict[str, float]] | None:
    """What takes the collections of a model before and after a night and returns how far each task
    has fallen (`task_scores.falls`); None where the gate watches none."""
    if not math.isfinite(experiment.settings.gate.tasks):
        return None

    def fallen(before, after) -> dict[str, float]:
        both = (scores_of_tasks(experiment, run, x, quiet=True) for x in (before, after))
        return falls(*both)

    return fallen


def note_tasks(
    experiment: Experiment, run: RunState, logger: PhaseLogger, day: int, steps: tuple[int, int]
) -> RunState:
    """Puts on record of a day what its night changed in the tasks; `steps` are those of the figures
    before and after."""
    if not experiment.config.evaluation.tasks:
        return run
    states = {"before sleep": run.before_sleep, "after sleep": run.current}
    scores = []
    for step, (name, state) in zip(steps, states.items()):
        variables = state.variables(experiment.params)
        measured = scores_of_tasks(experiment, run, variables, name=name, quiet=logger.quiet)
        figures = {f"task_{x.task}_{x.metric.replace(', ', '_')}": x.value for x in measured}
        logger.scalars(step, figures)
        scores.append(measured)
    return run.note_day(day, tasks=side_by_side(*scores))
