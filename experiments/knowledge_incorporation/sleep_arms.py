"""The arms that sleep: runs of the library (`lifecycle.run`) that differ in a setting.

An arm copies the checkpoints of the phases that it shares with the full one and goes on from there.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Sequence

import ml_collections
import numpy as np
from arm_configs import BASE, FULL, NO_DREAMS, NO_ROUTER, NO_SELECTION, TOPICS, after_many, variant

from sleep_jax import lifecycle
from sleep_jax.baselines.model import Model
from sleep_jax.config import read
from sleep_jax.data.documents import Document
from sleep_jax.days import Day
from sleep_jax.experiment import Experiment
from sleep_jax.phases.evaluate import STAGES, ask
from sleep_jax.phases.run_state import RunState
from sleep_jax.seeding.transaction import MemoryState

CONTEXT = "passage in context"
STAGE_OF = {BASE: STAGES[0], NO_DREAMS: STAGES[1], FULL: STAGES[2], CONTEXT: STAGES[3]}


def with_days(
    experiment: Experiment, config: ml_collections.ConfigDict, days: Sequence[Sequence[Document]]
) -> Experiment:
    """The same model with another config and other days to read."""
    return dataclasses.replace(
        experiment,
        config=ml_collections.FrozenConfigDict(config),
        cfg=experiment.cfg.replace(memory=read(config).memory),
        days=tuple(map(Day.of, days)),
        topics=experiment.topics[:TOPICS],
    )


def after_a_passage(experiment: Experiment, config, passage: Document, workdir: pathlib.Path):
    """Replies to the questions about one passage, {arm: replies}.

    All arms share the phases before dreams are selected; `workdir` holds their checkpoints, and a
    second call goes on from the last.
    """
    full = with_days(experiment, config, [[passage]])
    state = lifecycle.run(full, str(workdir / "full"), quiet=True)
    by_stage = state.record["days"][0]["replies"]
    replies = {arm: by_stage[stage] for arm, stage in STAGE_OF.items()}
    random = with_days(experiment, variant(NO_SELECTION, config), [[passage]])
    copy_shared_phases(random, NO_SELECTION, workdir / "full", workdir / "random")
    state = lifecycle.run(random, str(workdir / "random"), quiet=True)
    return replies | {NO_SELECTION: state.record["days"][0]["replies"][STAGES[2]]}


def models_after_a_passage(
    experiment: Experiment, config, passage: Document, workdir: pathlib.Path
) -> dict[str, Model]:
    """The models of the arms, as the finished runs of `after_a_passage` have them."""
    models = {}
    for arm, run_dir in ((FULL, "full"), (NO_SELECTION, "random")):
        run = with_days(experiment, variant(arm, config), [[passage]])
        state = lifecycle.run(run, str(workdir / run_dir), quiet=True)
        models[arm] = model_of(run, state.current)
        if arm == FULL:
            models[NO_DREAMS] = model_of(run, state.before_dreams)
    return models


def model_of(experiment: Experiment, state: MemoryState) -> Model:
    """The model of a run with a state of its memory."""
    return Model(experiment.cfg, state.variables(experiment.params), experiment.tokenizer)


def after_many_passages(
    experiment: Experiment,
    arm: str,
    passages: Sequence[Document],
    days: int,
    seed: int,
    workdir: pathlib.Path,
) -> tuple[list[list[str]], Model]:
    """Replies, per passage, after all are read and the last night is over; and the model then.

    Args:
      experiment: the model; its config is replaced.
      arm: one that `arm_configs.variant` knows; run `FULL` first, whose first phases all but
        `NO_ROUTER` share.
      passages: in the order of reading.
      days: the number of days they are read over.
      seed: of the run.
      workdir: of the runs of this seed.
    """
    config = variant(arm, after_many(days))
    config.seed = seed
    parts = [[passages[i] for i in part] for part in np.array_split(range(len(passages)), days)]
    variant_run, run_dir = with_days(experiment, config, parts), workdir / arm.replace(" ", "_")
    if arm not in (FULL, NO_ROUTER):
        copy_shared_phases(variant_run, arm, workdir / FULL, run_dir)
    state = lifecycle.run(variant_run, str(run_dir))
    return replies_about(variant_run, state, passages), model_of(variant_run, state.current)


def replies_about(
    experiment: Experiment, state: RunState, passages: Sequence[Document]
) -> list[list[str]]:
    """Replies of the current model to the questions about each passage."""
    questions = [(0, q.question) for passage in passages for q in passage.questions]
    replies = iter(ask(experiment, state.current.variables(experiment.params), questions))
    return [[next(replies) for _ in passage.questions] for passage in passages]


def first_different_phase(experiment: Experiment, arm: str) -> str:
    """Label of the first phase in which an arm differs from the full one."""
    if arm == NO_DREAMS:
        return "evaluate"
    if arm == NO_SELECTION:
        return "select"
    # Until more slots are filled than the router picks, the writer has no expert to draw.
    day = experiment.config.memory.top_k + 1
    return next(
        step.label for step in experiment.schedule if (step.phase, step.day) == ("write", day)
    )


def copy_shared_phases(
    experiment: Experiment, arm: str, full_dir: pathlib.Path, run_dir: pathlib.Path
) -> None:
    """Copies the checkpoints of the phases that an arm shares with the full run."""
    labels = [step.label for step in experiment.schedule]
    for index in range(labels.index(first_different_phase(experiment, arm))):
        target, draft = run_dir / "checkpoints" / str(index), run_dir / "draft"
        if not target.exists():
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(full_dir / "checkpoints" / str(index), draft)
            target.parent.mkdir(exist_ok=True)
            draft.replace(target)
