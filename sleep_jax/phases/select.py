"""Select: of the dreams about each document, those that its gradient favours and some at random."""

from collections.abc import Sequence

from sleep_jax.data.documents import Document
from sleep_jax.data.examples import Examples, make_examples
from sleep_jax.dreaming import select as dreaming
from sleep_jax.dreaming.adapters import init_lora
from sleep_jax.dreaming.gradients import dream_losses, gram_matrices
from sleep_jax.dreaming.importance import (
    BY_MODEL,
    WITHOUT_MODEL,
    Candidates,
    group_by_context,
    importance,
)
from sleep_jax.dreaming.write import Dream
from sleep_jax.experiment import Experiment
from sleep_jax.models.sharding import place
from sleep_jax.phases.dream_contexts import pages, reward_items
from sleep_jax.phases.phase import Phase
from sleep_jax.phases.rng_streams import key_of
from sleep_jax.phases.run_state import PhaseLogger, RunState
from sleep_jax.programs.abstract import AbstractRun
from sleep_jax.programs.dreams import over_examples, shape_of
from sleep_jax.programs.program import Program
from sleep_jax.run_schedule import ScheduledPhase


def select(
    experiment: Experiment, run: RunState, logger: PhaseLogger, scheduled: ScheduledPhase
) -> RunState:
    """Puts on record which dreams of the day are tried, and the importance of each.

    A dream about a document without a question of the model's own has no tau: it is left out.
    """
    day, c = run.day(scheduled.day), experiment.config
    dreams = [Dream.from_record(x) for x in day.get("dreams", [])]
    rewarding = reward_items(experiment, run, scheduled.day).documents
    eligible = [i for i, x in enumerate(dreams) if x.document in rewarding]
    with logger.bar(1, "step") as bar:
        if not eligible:
            bar.advance(1, kept=0)
            run = run.note_day(scheduled.day, kept=[])
            return run.note(scheduled.label, tokens=0, kept=0, skipped=_why_none(len(dreams)))
        config, seed = experiment.settings.dreaming.selection, (int(c.seed), scheduled.day)
        chosen = [dreams[i] for i in eligible]
        key = key_of(experiment, scheduled, "adapters")
        lora = place(init_lora(experiment.cfg, experiment.params, key), "lora")
        scores, order = importance(
            config.measure,
            experiment.cfg,
            c.dreaming.trial.microbatch,
            run.current.variables(experiment.params),
            lora,
            candidates(experiment, pages(experiment, run, scheduled.day), chosen),
            step=config.step,
            seed=seed,
        )
        documents = [x.document for x in chosen]
        kept = dreaming.select(order, documents, config.keep_top, config.keep_random, seed)
        for i, score in enumerate(scores):
            logger.scalars(eligible[i], {"importance": score, "kept": i in kept})
        bar.advance(1, kept=len(kept))
    on_record = [{"dream": eligible[i], "importance": float(scores[i])} for i in kept]
    run = run.note_day(scheduled.day, kept=on_record)
    tokens = sum(len(x.tokens) for x in chosen)
    return run.note(scheduled.label, tokens=tokens, kept=len(kept))


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
        dreams=as_learnt(
            [
                (prompts.tell_about(pages[x.document]), prompts.reply_without_thought(x.tokens))
                for x in dreams
            ]
        ),
        context_texts=[f"{page.title} {page.text}" for page in pages],
        targets=as_learnt([(prompts.tell_about(page), prompts.reply(page.text)) for page in pages]),
    )


def as_learnt(sequences) -> Examples:
    """Sequences of (prompt, reply), each alone: `Examples` [sequences, 1, time]."""
    return make_examples([[sequence] for sequence in sequences])


def programs(run: AbstractRun) -> list[Program]:
    """What the measure of importance runs (`dreaming.importance`): nothing where it reads no
    model."""
    measure, sizes = run.settings.dreaming.selection.measure, run.sizes
    if not run.has_dreams or not sizes.dreams or measure in WITHOUT_MODEL:
        return []
    microbatch, name = run.config.dreaming.trial.microbatch, "select: importance"
    pages, lengths = zip(*sizes.dreams)
    dreams = shape_of(as_learnt, lengths)
    if measure in BY_MODEL:
        dreams = run.examples(*dreams)
        args = (run.cfg, microbatch, run.variables, dreams)
        return [over_examples(name, dream_losses, args, (dreams,), 1)]
    contexts, members = group_by_context(pages)
    targets = run.examples(len(contexts), *shape_of(as_learnt, sizes.targets)[1:])
    shape, is_last_only = (*members.shape, *dreams[1:]), measure == "last_layer"
    # Where a context has fewer dreams than others, zeros fill it up, which make its mask integers.
    dreams = run.examples(*shape).replace(mask=run.array("tokens/mask", *shape))
    lora = run.collections["lora"]
    args = (run.cfg, microbatch, run.variables, lora, dreams, targets, is_last_only)
    passes = 1 if is_last_only else 2
    return [over_examples(name, gram_matrices, args, (dreams, targets), passes)]


SELECT = Phase("select", select, programs)
