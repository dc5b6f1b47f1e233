"""Learn: the dreams that made the model better, and to write such dreams."""

import dataclasses
from collections.abc import Sequence

import jax

from sleep_jax.data.documents import Document
from sleep_jax.dreaming import reinforce
from sleep_jax.experiment import Experiment
from sleep_jax.memory.slots import put_slot, take_slot, zeroed
from sleep_jax.phases.consolidate import GATED
from sleep_jax.phases.dream_contexts import pages, rehearsed
from sleep_jax.phases.evaluate import anchor_perplexity
from sleep_jax.phases.run_state import PhaseLogger, RunState, awake, key_of
from sleep_jax.phases.study import studied
from sleep_jax.phases.trial import kept_dreams
from sleep_jax.run_schedule import Step
from sleep_jax.seeding.consolidate import order_seed, seed_slot
from sleep_jax.seeding.mixture import updates_to_draw


def learn(experiment: Experiment, run: RunState, logger: PhaseLogger, step: Step) -> RunState:
    """Learns from the day's dreams into the slot that holds the day, unless the gate says that they
    cost too much."""
    c, documents = experiment.config, pages(experiment, run, step.day)
    learnt, taught, written = _lessons(experiment, run, step.day, documents)
    tried, old = len(kept_dreams(run, step.day)), rehearsed(experiment, run, step.day)
    if not taught and not written and not old:
        with logger.bar(1, "step") as bar:
            bar.advance(1, learnt=0)
        return run.note(step.label, tokens=0, skipped="no dream was rewarded")
    rng = jax.random.fold_in(key_of(experiment, step), 2)
    model = run.current.on(experiment.params)
    exchanges = [*taught, *studied(experiment, run, step.day), *old]
    index = run.day(step.day)["slot"]
    reinforcing = experiment.settings.reinforcing.with_shared_prefix(
        experiment.prompts.shared_prefix
    )
    if not written:  # all tied: there is no policy gradient, and nothing is rolled out for one
        reinforcing = dataclasses.replace(reinforcing, num_prompts=0)
    # Many dreams take more updates than configured: all that were rewarded are learnt.
    needed = updates_to_draw(exchanges, reinforcing.shape, order_seed(rng))
    reinforcing = dataclasses.replace(reinforcing, steps=max(reinforcing.steps, needed))
    with logger.bar(reinforcing.steps, "step") as bar:

        def log(number, metrics):
            logger.update(number, metrics)
            bar.advance(1, loss=metrics["loss"])

        dreamt = seed_slot(
            experiment.cfg,
            experiment.tokenizer,
            experiment.judge,
            reinforcing,
            student=_beginning(c.dreaming.restart, model, index),
            teachers=[awake(experiment, run, documents)],
            level=1,
            index=index,
            exchanges=exchanges,
            rng=rng,
            log=log,
            written=written,
            mid_phase=logger.mid_phase,
            timer=logger.timer,
        )
    tokens = sum(len(e.completion) for e in (*taught, *written))
    tied = {} if c.dreaming.estimator == "rest_em" else {"tied": tried - len(written)}
    run = run.note(step.label, tokens=tokens, learnt=learnt, **tied)
    before, after = (anchor_perplexity(experiment, x, GATED) for x in (model, dreamt))
    if rejection_reason := experiment.settings.gate.anchors_rejection_reason(before, after):
        return run.note(step.label, rolled_back=rejection_reason)
    return dataclasses.replace(run, current=run.current.replace(memory=dreamt["memory"]))


def _lessons(experiment: Experiment, run: RunState, day: int, documents: Sequence[Document]):
    """How many rewarded dreams are learnt, what they teach by heart, and what a policy gradient
    learns from."""
    c, prompts = experiment.config, experiment.prompts
    kept, rewards = kept_dreams(run, day), run.day(day).get("rewards", [])
    over = experiment.settings.dreaming.reward.baseline
    gains = [x[over] for x in run.day(day).get("gains", [])] or None
    best = reinforce.rewarded_dreams(kept, rewards, c.dreaming.cap, gains)
    templates = {t.name: t for t in experiment.settings.dreaming.writing.templates}
    closed_book = c.dreaming.estimator == "rest_em"
    taught = reinforce.supervised_exchanges(best, documents, prompts, templates, writes=closed_book)
    if closed_book:
        return len(best), taught, []
    policy = experiment.settings.reinforcing.objective.surrogate
    written = reinforce.policy_gradient_exchanges(
        kept, rewards, documents, prompts, templates, policy
    )
    return len(best), taught, written


def _beginning(restart: str, model, index: int):
    """The model that learns: as it is or, from the base, with the night's slot zeroed again."""
    if restart == "previous":
        return model
    if restart != "base":
        raise ValueError(f"dreaming.restart={restart!r}; choose from previous, base")
    slot = zeroed(take_slot(model["memory"], 1, index))
    return model | {"memory": put_slot(model["memory"], 1, index, slot)}
