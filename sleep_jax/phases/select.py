"""Select: of the dreams about each document, those that its gradient favours and some at random."""

from collections.abc import Sequence

import jax

from sleep_jax.data.documents import Document
from sleep_jax.data.examples import make_examples
from sleep_jax.dreaming import select as dreaming
from sleep_jax.dreaming.importance import Candidates, importance
from sleep_jax.dreaming.trial import init_lora
from sleep_jax.dreaming.write import Dream
from sleep_jax.experiment import Experiment
from sleep_jax.models.sharding import place
from sleep_jax.phases.dream_contexts import pages, reward_items
from sleep_jax.phases.run_state import PhaseLogger, RunState, key_of
from sleep_jax.run_schedule import Step


def select(experiment: Experiment, run: RunState, logger: PhaseLogger, step: Step) -> RunState:
    """Puts on record which dreams of the day are tried, and how important each was found.

    A dream about a document that no question of the model's own asks about has no tau: it is left
    out.
    """
    record, c = run.day(step.day), experiment.config
    dreams = [Dream.from_record(x) for x in record.get("dreams", [])]
    asked = reward_items(experiment, run, step.day).documents
    eligible = [i for i, x in enumerate(dreams) if x.document in asked]
    with logger.bar(1, "step") as bar:
        if not eligible:
            bar.advance(1, kept=0)
            run = run.note_day(step.day, kept=[])
            return run.note(step.label, tokens=0, kept=0, skipped=_why_none(len(dreams)))
        chosen, seed = experiment.settings.dreaming.selection, (int(c.seed), step.day)
        mine = [dreams[i] for i in eligible]
        key = jax.random.fold_in(key_of(experiment, step), 1)
        lora = place(init_lora(experiment.cfg, experiment.params, key), "lora")
        scores, order = importance(
            chosen.measure,
            experiment.cfg,
            c.dreaming.trial.microbatch,
            run.current.on(experiment.params),
            lora,
            candidates(experiment, pages(experiment, run, step.day), mine),
            step=chosen.step,
            seed=seed,
        )
        of = [x.document for x in mine]
        kept = dreaming.select(order, of, chosen.top, chosen.random, seed)
        for i, score in enumerate(scores):
            logger.scalars(eligible[i], {"importance": score, "kept": i in kept})
        bar.advance(1, kept=len(kept))
    on_record = [{"dream": eligible[i], "importance": float(scores[i])} for i in kept]
    run = run.note_day(step.day, kept=on_record)
    tokens = sum(len(x.tokens) for x in mine)
    return run.note(step.label, tokens=tokens, kept=len(kept))


def _why_none(written: int) -> str:
    if not written:
        return "no dream is left to choose from"
    return (
        f"none of the {written} dreams is about a document with a question of the model's own; "
        "raise study.questions or dreaming.held_out"
    )


def candidates(
    experiment: Experiment, pages: Sequence[Document], dreams: Sequence[Dream]
) -> Candidates:
    """The dreams as they are learnt, each alone; their targets are the passages."""
    prompts = experiment.prompts
    return Candidates(
        contexts=[x.document for x in dreams],
        texts=[x.text for x in dreams],
        dreams=make_examples(
            [
                [(prompts.tell_about(pages[x.document]), prompts.reply_without_thought(x.tokens))]
                for x in dreams
            ]
        ),
        context_texts=[f"{page.title} {page.text}" for page in pages],
        targets=make_examples(
            [[(prompts.tell_about(page), prompts.reply(page.text))] for page in pages]
        ),
    )
