"""Learn: the dreams that made the model better, and to write such dreams."""

import dataclasses
from collections.abc import Sequence

import jax

from sleep_jax.data.documents import Document
from sleep_jax.dreaming import reinforce
from sleep_jax.itinerary import Step
from sleep_jax.memory.slots import put_slot, silent, take_slot
from sleep_jax.phases.agenda import pages, rehearsed
from sleep_jax.phases.consolidate import GATED
from sleep_jax.phases.evaluate import anchor_perplexity
from sleep_jax.phases.night import Desk, Night, awake, key_of
from sleep_jax.phases.study import studied
from sleep_jax.phases.trial import kept_dreams
from sleep_jax.seeding.consolidate import order_seed, seed_slot
from sleep_jax.seeding.mixture import updates_to_draw
from sleep_jax.sleeper import Sleeper


def learn(sleeper: Sleeper, night: Night, desk: Desk, step: Step) -> Night:
    """Learns from the day's dreams into the slot that holds the day, unless the gate says that they
    cost too much."""
    c, documents = sleeper.config, pages(sleeper, night, step.day)
    learnt, taught, written = _lessons(sleeper, night, step.day, documents)
    tried, old = len(kept_dreams(night, step.day)), rehearsed(sleeper, night, step.day)
    if not taught and not written and not old:
        with desk.bar(1, "step") as bar:
            bar.advance(1, learnt=0)
        return night.note(step.label, tokens=0, skipped="no dream was rewarded")
    rng = jax.random.fold_in(key_of(sleeper, step), 2)
    model = night.now.on(sleeper.params)
    exchanges = [*taught, *studied(sleeper, night, step.day), *old]
    index = night.day(step.day)["slot"]
    reinforcing = sleeper.settings.reinforcing.with_shared_prefix(sleeper.prompts.opening)
    if not written:  # all tied: there is no policy gradient, and nothing is rolled out for one
        reinforcing = dataclasses.replace(reinforcing, dreams=0)
    # Many dreams take more updates than configured: all that were rewarded are learnt.
    needed = updates_to_draw(exchanges, reinforcing.shape, order_seed(rng))
    reinforcing = dataclasses.replace(reinforcing, steps=max(reinforcing.steps, needed))
    with desk.bar(reinforcing.steps, "step") as bar:

        def log(number, metrics):
            desk.update(number, metrics)
            bar.advance(1, loss=metrics["loss"])

        dreamt = seed_slot(
            sleeper.cfg,
            sleeper.tokenizer,
            sleeper.judge,
            reinforcing,
            student=_beginning(c.dreaming.restart, model, index),
            teachers=[awake(sleeper, night, documents)],
            level=1,
            index=index,
            exchanges=exchanges,
            rng=rng,
            log=log,
            written=written,
            bookmark=desk.bookmark,
            meter=desk.meter,
        )
    tokens = sum(len(e.completion) for e in (*taught, *written))
    tied = {} if c.dreaming.estimator == "rest_em" else {"tied": tried - len(written)}
    night = night.note(step.label, tokens=tokens, learnt=learnt, **tied)
    before, after = (anchor_perplexity(sleeper, x, GATED) for x in (model, dreamt))
    if objection := sleeper.settings.gate.anchors_objection(before, after):
        return night.note(step.label, rolled_back=objection)
    return dataclasses.replace(night, now=night.now.replace(memory=dreamt["memory"]))


def _lessons(sleeper: Sleeper, night: Night, day: int, documents: Sequence[Document]):
    """How many rewarded dreams are learnt, what they teach by heart, and what a policy gradient
    learns from."""
    c, prompts = sleeper.config, sleeper.prompts
    kept, rewards = kept_dreams(night, day), night.day(day).get("rewards", [])
    over = sleeper.settings.dreaming.reward.baseline
    gains = [x[over] for x in night.day(day).get("gains", [])] or None
    best = reinforce.rewarded(kept, rewards, c.dreaming.cap, gains)
    templates = {t.name: t for t in sleeper.settings.dreaming.writing.templates}
    by_heart = c.dreaming.estimator == "rest_em"
    taught = reinforce.lessons(best, documents, prompts, templates, writes=by_heart)
    if by_heart:
        return len(best), taught, []
    policy = sleeper.settings.reinforcing.objective.surrogate
    written = reinforce.written(kept, rewards, documents, prompts, templates, policy)
    return len(best), taught, written


def _beginning(restart: str, model, index: int):
    """The model that learns: as it is or, from the base, with the night's slot silent again."""
    if restart == "previous":
        return model
    if restart != "base":
        raise ValueError(f"dreaming.restart={restart!r}; choose from previous, base")
    slot = silent(take_slot(model["memory"], 1, index))
    return model | {"memory": put_slot(model["memory"], 1, index, slot)}
