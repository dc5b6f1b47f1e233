"""Learn: the dreams that made the model better, and to write such dreams."""

import dataclasses
from collections.abc import Sequence

from sleep_jax.data.batches import bucket
from sleep_jax.data.documents import Document
from sleep_jax.dreaming import reinforce
from sleep_jax.experiment import Experiment
from sleep_jax.memory.slots import put_slot, take_slot, zeroed
from sleep_jax.phases.consolidate import GATED
from sleep_jax.phases.dream_contexts import pages, rehearsed
from sleep_jax.phases.evaluate import anchor_perplexity
from sleep_jax.phases.phase import Phase
from sleep_jax.phases.rng_streams import key_of
from sleep_jax.phases.run_state import PhaseLogger, RunState
from sleep_jax.phases.study import studied
from sleep_jax.phases.tasks import falls_of_tasks
from sleep_jax.phases.teachers import teacher_of_day
from sleep_jax.phases.trial import kept_dreams
from sleep_jax.programs.abstract import AbstractRun
from sleep_jax.programs.calls import losses_of_texts, reading
from sleep_jax.programs.program import Program
from sleep_jax.programs.seeding import batch_count, kept_out, precomputed, rescored, taught, updated
from sleep_jax.run_schedule import ScheduledPhase
from sleep_jax.seeding.consolidate import data_seed, seed_slot
from sleep_jax.seeding.mixture import updates_to_draw
from sleep_jax.seeding.rollout_buffer import written_width
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import Exchange


def learn(
    experiment: Experiment, run: RunState, logger: PhaseLogger, scheduled: ScheduledPhase
) -> RunState:
    """Learns from the day's dreams into the slot that holds the day, unless the gate says that they
    cost too much."""
    c, documents = experiment.config, pages(experiment, run, scheduled.day)
    learnt, lessons, written = lessons_of(experiment, run, scheduled.day, documents)
    old = rehearsed(experiment, run, scheduled.day)
    tried = len(kept_dreams(run, scheduled.day))
    if not lessons and not written and not old:
        with logger.bar(1, "step") as bar:
            bar.advance(1, learnt=0)
        return run.note(scheduled.label, tokens=0, skipped="no dream was rewarded")
    rng = key_of(experiment, scheduled, "updates")
    model = run.current.variables(experiment.params)
    exchanges = [*lessons, *studied(experiment, run, scheduled.day), *old]
    index = run.day(scheduled.day)["slot"]
    seeding = experiment.settings.reinforcing.with_shared_prefix(experiment.prompts.shared_prefix)
    # Many dreams take more updates than configured: all that were rewarded are learnt.
    needed = updates_to_draw(
        exchanges, seeding.shape, data_seed(rng), known_share=seeding.known_share
    )
    seeding = _as_needed(seeding, needed, bool(written))
    with logger.bar(seeding.steps, "step") as bar:

        def log(step, metrics):
            logger.update(step, metrics)
            bar.advance(1, loss=metrics["loss"])

        after_dreams = seed_slot(
            experiment.cfg,
            experiment.tokenizer,
            experiment.judge,
            seeding,
            student=_begin(c.dreaming.restart, model, index),
            teachers=[teacher_of_day(experiment, run, documents)],
            level=1,
            index=index,
            exchanges=exchanges,
            rng=rng,
            log=log,
            written=written,
            mid_phase=logger.mid_phase,
            timer=logger.timer,
        )
    tokens = sum(len(e.completion) for e in (*lessons, *written))
    tied = {} if c.dreaming.estimator == "rest_em" else {"tied": tried - len(written)}
    run = run.note(scheduled.label, tokens=tokens, learnt=learnt, **tied)
    before, after = (anchor_perplexity(experiment, x, GATED) for x in (model, after_dreams))
    if rejection_reason := experiment.settings.gate.anchors_rejection_reason(before, after):
        return run.note(scheduled.label, rolled_back=rejection_reason)
    if falls_of := falls_of_tasks(experiment, run):
        falls = falls_of(model, after_dreams)
        run = run.note(scheduled.label, **{f"fall_{task}": fall for task, fall in falls.items()})
        if rejection_reason := experiment.settings.gate.tasks_rejection_reason(falls):
            return run.note(scheduled.label, rolled_back=rejection_reason)
    return dataclasses.replace(run, current=run.current.replace(memory=after_dreams["memory"]))


def _as_needed(seeding: SeedingConfig, updates: int, has_policy_gradient: bool) -> SeedingConfig:
    """The updates of a night's dreams: no fewer than are needed; where all dreams tie, there is no
    policy gradient, and nothing is rolled out for one."""
    if not has_policy_gradient:
        seeding = dataclasses.replace(seeding, num_prompts=0)
    return dataclasses.replace(seeding, steps=max(seeding.steps, updates))


def lessons_of(
    experiment: Experiment, run: RunState, day: int, documents: Sequence[Document]
) -> tuple[int, list[Exchange], list[Exchange]]:
    """What the dreams of a day teach.

    Returns:
      (count, lessons, written): the number of rewarded dreams that are learnt, the exchanges of
      them for the cross-entropy, and the exchanges that a policy gradient learns from.
    """
    c, prompts = experiment.config, experiment.prompts
    kept, rewards = kept_dreams(run, day), run.day(day).get("rewards", [])
    baseline = experiment.settings.dreaming.reward.baseline
    gains = [x[baseline] for x in run.day(day).get("gains", [])] or None
    best = reinforce.rewarded_dreams(kept, rewards, c.dreaming.max_per_document, gains)
    templates = {t.name: t for t in experiment.settings.dreaming.writing.templates}
    is_supervised = c.dreaming.estimator == "rest_em"
    lessons = reinforce.supervised_exchanges(
        best, documents, prompts, templates, writes=is_supervised
    )
    if is_supervised:
        return len(best), lessons, []
    policy = experiment.settings.reinforcing.objective.surrogate
    written = reinforce.policy_gradient_exchanges(
        kept, rewards, documents, prompts, templates, policy
    )
    return len(best), lessons, written


def _begin(restart: str, model, index: int):
    """The model that learns: as it is or, from the base, with the night's slot zeroed again."""
    if restart == "previous":
        return model
    if restart != "base":
        raise ValueError(f"dreaming.restart={restart!r}; choose from previous, base")
    slot = zeroed(take_slot(model["memory"], 1, index))
    return model | {"memory": put_slot(model["memory"], 1, index, slot)}


def programs(run: AbstractRun) -> list[Program]:
    """Updates on what was dreamt and studied; a policy gradient scores its dreams before the
    first."""
    sizes = run.sizes
    if not run.has_dreams or not (sizes.lessons or sizes.written):
        return []
    context, written = bucket(max(sizes.pages)), sizes.written
    seeding = _as_needed(run.settings.reinforcing, sizes.learn_updates, bool(written))
    learner, shape = run.learner(seeding), seeding.shape
    exchanges = [*sizes.lessons, *sizes.exchanges]
    score, batches = [], 0
    if written:
        batches, width = batch_count(written, shape), written_width(written)
        score = [
            rescored(run, "learn: rescore", shape, learner.value_head, batches),
            *taught(run, "learn: teach dreams", [(width,) * len(written)], context, width),
        ]
    return [
        reading(run, "learn: read", sizes.pages),
        *precomputed(run, "learn", shape, [exchanges], context, batches),
        *kept_out(run, "learn", seeding, exchanges),
        *score,
        *updated(run, "learn: update", seeding, learner),
        *losses_of_texts(run, "learn: anchors", sizes.anchors[:1], 2),
    ]


LEARN = Phase("learn", learn, programs, resumable=True)
