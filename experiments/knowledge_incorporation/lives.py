"""The arms that sleep: the lives of one model under other settings."""

import dataclasses
import pathlib
import shutil
from collections.abc import Sequence

import ml_collections
import numpy as np
from night import FULL, NO_DREAMS, NO_ROUTER, NO_SELECTION, TOPICS, after_many, variant

from sleep_jax import lifecycle
from sleep_jax.config import read
from sleep_jax.data.documents import Document
from sleep_jax.experiment import Day, Experiment
from sleep_jax.phases.evaluate import STAGES, ask
from sleep_jax.phases.run_state import RunState

BASE, CONTEXT = "base", "passage in context"
STAGE_OF = {BASE: STAGES[0], NO_DREAMS: STAGES[1], FULL: STAGES[2], CONTEXT: STAGES[3]}


def reading(
    experiment: Experiment, config: ml_collections.ConfigDict, days: Sequence[Sequence[Document]]
) -> Experiment:
    """The same model with other settings and other days before it."""
    return dataclasses.replace(
        experiment,
        config=ml_collections.FrozenConfigDict(config),
        cfg=experiment.cfg.replace(memory=read(config).memory),
        days=tuple(map(Day.of, days)),
        topics=experiment.topics[:TOPICS],
    )


def after_a_passage(experiment: Experiment, config, passage: Document, workdir: pathlib.Path):
    """Replies to the questions about one passage, {arm: replies}.

    All arms share what comes before dreams are chosen; `workdir` holds their checkpoints, from
    which a second call goes on.
    """
    own = reading(experiment, config, [[passage]])
    night = lifecycle.run(own, str(workdir / "full"), quiet=True)
    replies = night.record["days"][0]["replies"]
    said = {arm: replies[stage] for arm, stage in STAGE_OF.items()}
    other = reading(experiment, variant(NO_SELECTION, config), [[passage]])
    branch(other, NO_SELECTION, workdir / "full", workdir / "random")
    night = lifecycle.run(other, str(workdir / "random"), quiet=True)
    return said | {NO_SELECTION: night.record["days"][0]["replies"][STAGES[2]]}


def after_many_passages(
    experiment: Experiment,
    arm: str,
    passages: Sequence[Document],
    days: int,
    seed: int,
    workdir: pathlib.Path,
) -> list[list[str]]:
    """Replies, per passage, once all are read and the last night is over.

    Args:
      experiment: whose settings do not count.
      arm: one that `night.variant` knows; `FULL` first, whose beginning all but `NO_ROUTER` share.
      passages: in the order of reading.
      days: over which they are read.
      seed: of the life.
      workdir: of the lives of this seed.
    """
    config = variant(arm, after_many(days))
    config.seed = seed
    parts = [[passages[i] for i in part] for part in np.array_split(range(len(passages)), days)]
    own, life = reading(experiment, config, parts), workdir / arm.replace(" ", "_")
    if arm not in (FULL, NO_ROUTER):
        branch(own, arm, workdir / FULL, life)
    return replies_about(own, lifecycle.run(own, str(life)), passages)


def replies_about(
    experiment: Experiment, night: RunState, passages: Sequence[Document]
) -> list[list[str]]:
    """What the model says as it is, per passage."""
    asked = [(0, q.question) for passage in passages for q in passage.questions]
    said = iter(ask(experiment, night.current.variables(experiment.params), asked))
    return [[next(said) for _ in passage.questions] for passage in passages]


def parting(experiment: Experiment, arm: str) -> str:
    """The first phase in which an arm does something else than the whole."""
    if arm == NO_DREAMS:
        return "evaluate"
    if arm == NO_SELECTION:
        return "select"
    # Until a day ends with more slots open than are on, its writer has no expert to draw.
    day = experiment.config.memory.top_k + 1
    return next(
        step.label for step in experiment.schedule if (step.phase, step.day) == ("write", day)
    )


def branch(experiment: Experiment, arm: str, whole: pathlib.Path, life: pathlib.Path) -> None:
    """Has a life begin with the checkpoints that it shares with the whole one."""
    shared = [step.label for step in experiment.schedule].index(parting(experiment, arm))
    for index in range(shared):
        target, draft = life / "checkpoints" / str(index), life / "draft"
        if not target.exists():
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(whole / "checkpoints" / str(index), draft)
            target.parent.mkdir(exist_ok=True)
            draft.replace(target)
