"""Dream: the model writes, keeps what its gradients favour, tries it, and learns what made it
better."""

import dataclasses

import jax
import numpy as np

from sleep_jax import config as settings
from sleep_jax.data.examples import examples
from sleep_jax.dreaming.reinforce import about, lessons
from sleep_jax.dreaming.reward import earned, gains
from sleep_jax.dreaming.select import importance, select
from sleep_jax.dreaming.trial import births
from sleep_jax.dreaming.write import Dream, write
from sleep_jax.evals.adapted import Adapted
from sleep_jax.evals.items import Item, RewardItems
from sleep_jax.evals.rubric import Rubric
from sleep_jax.evals.scorers import scorer
from sleep_jax.itinerary import Step
from sleep_jax.phases.consolidate import GATED, studied
from sleep_jax.phases.evaluate import anchor_perplexity
from sleep_jax.phases.night import Desk, Night, awake, key_of
from sleep_jax.seeding.consolidate import seed_slot
from sleep_jax.seeding.self_study import Study
from sleep_jax.sleeper import Day, Sleeper


def dream(sleeper: Sleeper, night: Night, desk: Desk, step: Step) -> Night:
    """Writes dreams about the day, selects, tries and rewards them, and learns the rewarded ones
    into the slot that holds the day, unless the gate says that they cost too much."""
    cfg, c, prompts, day = sleeper.cfg, sleeper.config, sleeper.prompts, sleeper.days[step.day]
    if "slot" not in night.day(step.day):
        with desk.bar(1, "step") as bar:
            bar.advance(1, written=0)
        return night.note(step.label, tokens=0, skipped="no slot of level 1 holds this day")
    key = key_of(sleeper, step)
    held_out = Study.of(night.day(step.day)["study"]).held_out
    items = RewardItems.apart_from(
        {q.text for q in sleeper.questions},
        [Item(q.document, q.question, (q.answer,)) for q in held_out],
    )
    teacher = awake(sleeper, night, day)
    model = night.now.on(sleeper.params)
    reinforcing = settings.reinforcing_config(c, prompts.opening)
    with desk.bar(2 + reinforcing.steps, "step") as bar:
        dreams, written = write(
            cfg,
            teacher.variables,
            sleeper.tokenizer,
            day.documents,
            teacher.context,
            instructions=c.dreaming.instructions,
            count=c.dreaming.count,
            temperature=c.dreaming.temperature,
            max_new_tokens=c.dreaming.max_new_tokens,
            rng=jax.random.fold_in(key, 0),
        )
        bar.advance(1, written=written)
        # A dream about a document that no question of the model's own asks about has no tau.
        dreams = [x for x in dreams if x.document in items.documents]
        kept, rewarded = try_out(
            sleeper, model, dreams, day, items, jax.random.fold_in(key, 1), desk
        )
        bar.advance(1, kept=len(kept), rewarded=len(rewarded))

        def log(number, metrics):
            desk.scalars(number, metrics)
            bar.advance(1, loss=metrics["loss"])

        figures = {
            "written": written,
            "kept": len(kept),
            "rewarded": len(rewarded),
            "tokens": sum(len(x.tokens) for x in dreams),
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
                index=night.day(step.day)["slot"],
                exchanges=lessons(rewarded, day.documents, prompts)
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
    dreams: list[Dream],
    day: Day,
    items: RewardItems,
    rng,
    desk: Desk,
) -> tuple[list[Dream], list[Dream]]:
    """Selects dreams by gradient and tries each on its own.

    Returns:
      (kept, rewarded): the selected dreams, and those of them that earned a reward.
    """
    if not dreams:
        return [], []
    cfg, c, prompts = sleeper.cfg, sleeper.config, sleeper.prompts
    trial = settings.trial_config(c)
    adapters = births(cfg, sleeper.params, rng, trial.seeds)
    pages = [day.documents[x.document] for x in dreams]
    alone = examples([[(about(p, prompts), x.tokens)] for x, p in zip(dreams, pages)])
    passages = examples([[(about(p, prompts), prompts.reply(p.text))] for p in pages])
    scores = np.asarray(importance(cfg, trial, model, adapters[0], alone, passages))
    of = [x.document for x in dreams]
    chosen = select(scores, of, c.dreaming.top, c.dreaming.random, int(c.seed))
    kept = [dreams[i] for i in chosen]
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
        figures = {"importance": scores[chosen[i]], "reward": reward[i], "gain": gain[i].mean()}
        desk.scalars(i, {name: float(value) for name, value in figures.items()})
        desk.writer.text(desk.label, i, x.instruction, x.text)
    return kept, [x for x, r in zip(kept, reward) if r]
