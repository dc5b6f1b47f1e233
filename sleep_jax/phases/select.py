"""Select: of the dreams about each document, those that its gradient favours and some at random."""

from collections.abc import Sequence

import jax

from sleep_jax.data.documents import Document
from sleep_jax.data.examples import examples
from sleep_jax.dreaming import select as dreaming
from sleep_jax.dreaming.importance import Candidates, importance
from sleep_jax.dreaming.trial import init_lora
from sleep_jax.dreaming.write import Dream
from sleep_jax.itinerary import Step
from sleep_jax.models.sharding import place
from sleep_jax.phases.agenda import pages, reward_items
from sleep_jax.phases.night import Desk, Night, key_of
from sleep_jax.sleeper import Sleeper


def select(sleeper: Sleeper, night: Night, desk: Desk, step: Step) -> Night:
    """Puts on record which dreams of the day are tried, and how important each was found.

    A dream about a document that no question of the model's own asks about has no tau: it is left
    out.
    """
    record, c = night.day(step.day), sleeper.config
    dreams = [Dream.of(x) for x in record.get("dreams", [])]
    asked = reward_items(sleeper, night, step.day).documents
    eligible = [i for i, x in enumerate(dreams) if x.document in asked]
    with desk.bar(1, "step") as bar:
        if not eligible:
            bar.advance(1, kept=0)
            night = night.note_day(step.day, kept=[])
            return night.note(step.label, tokens=0, kept=0, skipped=_why_none(len(dreams)))
        chosen, seed = sleeper.settings.dreaming.selection, (int(c.seed), step.day)
        mine = [dreams[i] for i in eligible]
        key = jax.random.fold_in(key_of(sleeper, step), 1)
        lora = place(init_lora(sleeper.cfg, sleeper.params, key), "lora")
        scores, order = importance(
            chosen.measure,
            sleeper.cfg,
            c.dreaming.trial.chunk,
            night.now.on(sleeper.params),
            lora,
            candidates(sleeper, pages(sleeper, night, step.day), mine),
            step=chosen.step,
            seed=seed,
        )
        of = [x.document for x in mine]
        kept = dreaming.select(order, of, chosen.top, chosen.random, seed)
        for i, score in enumerate(scores):
            desk.scalars(eligible[i], {"importance": score, "kept": i in kept})
        bar.advance(1, kept=len(kept))
    on_record = [{"dream": eligible[i], "importance": float(scores[i])} for i in kept]
    night = night.note_day(step.day, kept=on_record)
    tokens = sum(len(x.tokens) for x in mine)
    return night.note(step.label, tokens=tokens, kept=len(kept))


def _why_none(written: int) -> str:
    if not written:
        return "no dream is left to choose from"
    return (
        f"none of the {written} dreams is about a document with a question of the model's own; "
        "raise study.questions or dreaming.held_out"
    )


def candidates(sleeper: Sleeper, pages: Sequence[Document], dreams: Sequence[Dream]) -> Candidates:
    """The dreams as they are learnt, each alone; their targets are the passages."""
    prompts = sleeper.prompts
    return Candidates(
        contexts=[x.document for x in dreams],
        texts=[x.text for x in dreams],
        dreams=examples(
            [[(prompts.about(pages[x.document]), prompts.said(x.tokens))] for x in dreams]
        ),
        pages=[f"{page.title} {page.text}" for page in pages],
        targets=examples([[(prompts.about(page), prompts.reply(page.text))] for page in pages]),
    )
