"""The baseline that stores no text: one adapter, fine-tuned night after night on what the sleeping
model wrote about its day, with a tenth of old examples or without."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Collection, Sequence

import jax
from facts import Question
from measure import anchors, closed_book, kept, recall, right

from sleep_jax.baselines.model import Leaves, Model, base_model
from sleep_jax.baselines.replay import ReplayConfig
from sleep_jax.baselines.sequential import SequentialLearner
from sleep_jax.baselines.sft import SFTConfig, with_lora, written_pairs
from sleep_jax.experiment import Experiment
from sleep_jax.models.decoder_config import LoraConfig
from sleep_jax.phases.run_state import RunState
from sleep_jax.phases.study import studied
from sleep_jax.seeding.mixture import fill_batch, shuffled
from sleep_jax.seeding.sequences import Exchange

# The rank of a slot, on every linear layer.
LORA = LoraConfig(rank=16, alpha=32.0, targets=("q", "k", "v", "o", "gate", "up", "down"))
# Replay of old examples, and whether the sleeping model's rehearsals and earlier questions are
# learnt, too.
ARMS = {
    "lora": (None, False),
    "lora-replay": (ReplayConfig(), False),
    "lora-all": (None, True),
}


def fine_tuned(
    experiment: Experiment,
    slept: RunState,
    arm: str,
    rate: float,
    seed: int,
    workdir: pathlib.Path,
    questions: Sequence[Sequence[Question]],
    asked_after: Collection[int],
    can: Callable[[Model, str], dict],
) -> dict:
    """What an adapter knows after each night, as `run.slept` has it.

    A night has as many updates as the sleeping model's, each of as many sequences as make its
    target tokens.

    Args:
      experiment: the model and its days.
      slept: the end of the sleeping model's run.
      arm: of `ARMS`.
      rate: Adam's first rate.
      seed: of the adapter's first weights and of all orders.
      workdir: keeps finished nights.
      questions: of each document.
      asked_after: nights after which they are asked, from 0.
      can: of a model and its name the figures of what it can do besides.
    """
    (replay, has_known), nights = ARMS[arm], len(experiment.days)
    written = [of_night(experiment, slept, night, has_known) for night in range(nights)]
    seeding, rng = experiment.settings.seeding, jax.random.key(seed)
    sft = SFTConfig(
        steps=seeding.steps,
        learning_rate=rate,
        batch_size=sequences_of_update(experiment, slept, written[0]),
        max_grad_norm=seeding.max_grad_norm,
    )
    model = with_lora(base_model(experiment), LORA, rng)
    tuned = dataclasses.replace(experiment, cfg=model.cfg)
    learner = SequentialLearner(model, Leaves("lora/.*"), rng, sft, replay=replay).restore(workdir)
    out = []
    for night in range(nights):
        seconds = None  # of a night that was learnt before a stop
        if learner.tasks <= night:
            began = time.perf_counter()
            learner = learner.learn(written_pairs(written[night]))
            learner.save(workdir)
            seconds = time.perf_counter() - began

        asked = questions if night in asked_after else ()
        measured = tuned, learner.model, night, seconds, asked
        out.append(kept(workdir / f"{night}.json", _figures, *measured))
    return {
        "seed": seed,
        "rate": rate,
        "recall": [x["recall"] for x in out],
        "anchors": [x["anchors"] for x in out],
        "seconds": [x["seconds"] for x in out],
        "right": [out[night]["right"] for night in asked_after],
    } | can(learner.model, workdir.name)


def _figures(
    tuned: Experiment,
    model: Model,
    night: int,
    seconds: float | None,
    questions: Sequence[Sequence[Question]],
) -> dict:
    """Of a night."""
    variables = model.variables
    known = {"recall": recall(tuned, variables, night), "anchors": anchors(tuned, variables)}
    return known | {"seconds": seconds, "right": right(closed_book(tuned, variables), questions)}


def of_night(
    experiment: Experiment, slept: RunState, night: int, has_known: bool
) -> list[Exchange]:
    """What the sleeping model wrote for a night, without what was known before unless
    `has_known`."""
    return [e for e in studied(experiment, slept, night) if has_known or not e.is_known]


def sequences_of_update(experiment: Experiment, slept: RunState, written: Sequence) -> int:
    """Sequences of an update whose target tokens are, in the mean, those of the sleeping model's
    first night.

    Args:
      experiment, slept: of the sleeping model.
      written: sequences that the adapter learns from.
    """
    seeding = experiment.settings.seeding
    exchanges = studied(experiment, slept, 0)
    stream, drawn = shuffled(exchanges, 0, known_share=seeding.known_share), []
    for _ in range(seeding.steps):
        chosen, stream = fill_batch([], stream, seeding.shape)
        drawn += chosen
    length = sum(len(e.completion) for e in written) / len(written)
    tokens = sum(len(e.completion) for e in drawn) / seeding.steps
    return max(1, round(tokens / length))
