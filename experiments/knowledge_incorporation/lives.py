"""The arms that sleep: the lives of one model under other settings."""

import dataclasses
import pathlib
import shutil
from collections.abc import Sequence

import ml_collections
from night import FULL, NO_DREAMS, NO_SELECTION, TOPICS, after_many, variant

from sleep_jax import lifecycle
from sleep_jax.data.documents import Document
from sleep_jax.phases.evaluate import STAGES, ask
from sleep_jax.phases.night import Night
from sleep_jax.sleeper import Day, Sleeper

BASE, CONTEXT = "base", "passage in context"
STAGE_OF = {BASE: STAGES[0], NO_DREAMS: STAGES[1], FULL: STAGES[2], CONTEXT: STAGES[3]}
COMMON = "write"  # the last phase that the arms of a night share


def reading(
    sleeper: Sleeper, config: ml_collections.ConfigDict, days: Sequence[Sequence[Document]]
) -> Sleeper:
    """The same model with other days before it."""
    return dataclasses.replace(
        sleeper,
        config=ml_collections.FrozenConfigDict(config),
        days=tuple(map(Day.of, days)),
        topics=sleeper.topics[:TOPICS],
    )


def after_a_passage(sleeper: Sleeper, config, passage: Document, workdir: pathlib.Path):
    """Replies to the questions about one passage, {arm: replies}.

    All arms share what comes before dreams are chosen; `workdir` holds their checkpoints, from
    which a second call goes on.
    """
    own = reading(sleeper, config, [[passage]])
    night = lifecycle.live(own, str(workdir / "full"), quiet=True)
    replies = night.record["days"][0]["replies"]
    said = {arm: replies[stage] for arm, stage in STAGE_OF.items()}
    other = reading(sleeper, variant(NO_SELECTION, config), [[passage]])
    night = lifecycle.live(other, str(_branch(other, workdir)), quiet=True)
    return said | {NO_SELECTION: night.record["days"][0]["replies"][STAGES[2]]}


def after_many_passages(
    sleeper: Sleeper,
    arm: str,
    passages: Sequence[Document],
    days: int,
    seed: int,
    workdir: pathlib.Path,
) -> list[list[str]]:
    """Replies, per passage, once all are read and the last night is over.

    Args:
      sleeper: whose settings but for the memory do not count.
      arm: one that `night.variant` knows.
      passages: in the order of reading.
      days: over which they are read.
      seed: of the life.
      workdir: of this life.
    """
    config = variant(arm, after_many(days))
    config.seed = seed
    size = -(-len(passages) // days)
    parts = [passages[i : i + size] for i in range(0, len(passages), size)]
    own = reading(sleeper, config, parts)
    return replies_about(own, lifecycle.live(own, str(workdir)), passages)


def replies_about(sleeper: Sleeper, night: Night, passages: Sequence[Document]) -> list[list[str]]:
    """What the model says as it is, per passage."""
    asked = [(0, q.question) for passage in passages for q in passage.questions]
    said = iter(ask(sleeper, night.now.on(sleeper.params), asked))
    return [[next(said) for _ in passage.questions] for passage in passages]


def _branch(sleeper: Sleeper, workdir: pathlib.Path) -> pathlib.Path:
    """A run that begins where the full one had written its dreams."""
    branch = workdir / "random"
    common = [step.label for step in sleeper.steps].index(COMMON)
    for index in range(common + 1):
        target = branch / "checkpoints" / str(index)
        if not target.exists():
            shutil.copytree(workdir / "full" / "checkpoints" / str(index), target)
    return branch
