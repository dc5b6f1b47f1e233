"""Dream: the model tries the dreams that were selected, and learns what made it better."""

import dataclasses

import jax

from sleep_jax import config as settings
from sleep_jax.data.examples import examples
from sleep_jax.dreaming.reinforce import about, lessons
from sleep_jax.dreaming.reward import earned, gains
from sleep_jax.dreaming.trial import births
from sleep_jax.dreaming.write import Dream
from sleep_jax.evals.adapted import Adapted
from sleep_jax.evals.items import RewardItems
from sleep_jax.evals.rubric import Rubric
from sleep_jax.evals.scorers import scorer
from sleep_jax.itinerary import Step
from sleep_jax.models.sharding import place
from sleep_jax.phases.consolidate import GATED, studied
from sleep_jax.phases.evaluate import anchor_perplexity
from sleep_jax.phases.night import Desk, Night, awake, key_of
from sleep_jax.phases.select import reward_items
from sleep_jax.seeding.consolidate import seed_slot
from sleep_jax.sleeper import Day, Sleeper


def dream(sleeper: Sleeper, night: Night, desk: Desk, step: Step) -> Night:
    """Tries and rewards the selected dreams of the day, and learns the rewarded ones into the slot
    that holds the day, unless the gate says that they cost too much."""
    cfg, c, prompts, day = sleeper.cfg, sleeper.config, sleeper.prompts, sleeper.days[step.day]
    record, items = night.day(step.day), reward_items(sleeper, night, step.day)
    if not record.get("kept"):
        with desk.bar(1, "step") as bar:
            bar.advance(1, tried=0)
        return night.note(step.label, tokens=0, skipped="no dream was selected")
    key = key_of(sleeper, step)
    teacher = awake(sleeper, night, day)
    model = night.now.on(sleeper.params)
    reinforcing = settings.reinforcing_config(c, prompts.opening)
    templates = {t.name: t for t in settings.writing_config(c).templates}
    kept = [Dream.of(record["dreams"][k["dream"]]) for k in record["kept"]]
    importance = [k["importance"] for k in record["kept"]]
    with desk.bar(1 + reinforcing.steps, "step") as bar:
        rewarded = try_out(
            sleeper, model, kept, importance, day, items, jax.random.fold_in(key, 1), desk
        )
        bar.advance(1, tried=len(kept), rewarded=len(rewarded))

        def log(number, metrics):
            desk.scalars(number, metrics)
            bar.advance(1, loss=metrics["loss"])

        figures = {
            "tried": len(kept),
            "rewarded": len(rewarded),
            "tokens": sum(len(x.tokens) for x in kept),
        }
        if rewarded:
            dreamt = seed_slot(
                cfg,
                sleeper.tokenizer,
                sleeper.judge,
                reinforcing,
                student=model,
                teachers=[teacher],
                level=1,
                index=record["slot"],
                exchanges=lessons(rewarded, day.documents, prompts, templates)
                + studied(sleeper, night, step.day),
                rng=jax.random.fold_in(key, 2),
                log=log,
            )
            before, after = (anchor_perplexity(sleeper, x, GATED) for x in (model, dreamt))
            if objection := settings.gate_config(c).anchors_objection(before, after):
                figures["rolled_back"] = objection
            else:
                model = dreamt
    now = night.now.replace(memory=model["memory"])
    return dataclasses.replace(night, now=now).note(step.label, **figures)


def try_out(
    sleeper: Sleeper,
    model,
    kept: list[Dream],
    importance: list[float],
    day: Day,
    items: RewardItems,
    rng,
    desk: Desk,
) -> list[Dream]:
    """Tries each dream on its own; those that earned a reward."""
    cfg, c, prompts = sleeper.cfg, sleeper.config, sleeper.prompts
    trial = settings.trial_config(c)
    adapters = [place(x, "lora") for x in births(cfg, sleeper.params, rng, trial.seeds)]
    learnt = [
        [(about(p, prompts), x.tokens), (about(p, prompts), prompts.reply(p.text))]
        for x, p in ((x, day.documents[x.document]) for x in kept)
    ]
    of = [x.document for x in kept]
    paid = settings.reward_config(c)
    gain = gains(
        Adapted(cfg, model, sleeper.tokenizer, max_new_tokens=int(c.evaluation.max_new_tokens)),
        trial,
        scorer(paid.scorer, lambda: Rubric(cfg, sleeper.params, sleeper.tokenizer)),
        adapters,
        examples(learnt, is_packed=not trial.batch),
        of,
        items,
    )
    reward = earned(paid, gain, of)
    for i, x in enumerate(kept):
        figures = {"importance": importance[i], "reward": reward[i], "gain": gain[i].mean()}
        desk.scalars(i, {name: float(value) for name, value in figures.items()})
        desk.writer.text(desk.label, i, x.template, x.text)
    return [x for x, r in zip(kept, reward) if r]
