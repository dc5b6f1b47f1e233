"""Write: the model, as it was when the day ended and with documents in view, dreams about them:
those of the day, and some of earlier days as it recollects them."""

import dataclasses

from sleep_jax.data.batches import bucket
from sleep_jax.dreaming import write as dreaming
from sleep_jax.experiment import Experiment
from sleep_jax.phases.drafts import Drafts
from sleep_jax.phases.dream_contexts import draw_dream_contexts, dreamt_before, pages, subjects
from sleep_jax.phases.phase import Phase
from sleep_jax.phases.rng_streams import key_of
from sleep_jax.phases.run_state import PhaseLogger, RunState, awake
from sleep_jax.programs.abstract import AbstractRun
from sleep_jax.programs.calls import END, reading, sampled
from sleep_jax.programs.program import Program
from sleep_jax.run_schedule import ScheduledPhase


def write(
    experiment: Experiment, run: RunState, logger: PhaseLogger, scheduled: ScheduledPhase
) -> RunState:
    """Draws what the night dreams about, and puts on record the dreams it writes."""
    if "slot" not in run.day(scheduled.day):
        with logger.bar(1, "step") as bar:
            bar.advance(1, written=0)
        return run.note(scheduled.label, tokens=0, skipped="no slot of level 1 holds this day")
    with logger.bar(1, "step") as bar:
        run, mix = draw_dream_contexts(experiment, run, scheduled.day)
        documents = pages(experiment, run, scheduled.day)
        teacher = awake(experiment, run, documents)
        draw = Drafts(logger.mid_phase, lambda count: bar.advance(0, batches=count))
        written = dreaming.write_dreams(
            experiment.cfg,
            experiment.settings.dreaming.writing,
            teacher.variables,
            experiment.tokenizer,
            documents,
            teacher.context,
            chosen=sorted(subjects(experiment, run, scheduled.day)),
            earlier=dreamt_before(experiment, run, scheduled.day),
            rng=key_of(experiment, scheduled, "dreams"),
            expert_rng=key_of(experiment, scheduled, "random_expert"),
            draw=draw,
        )
        bar.figures.pop("batches", None)  # shown while they are drawn
        figures = {"written": written.count, "dreams": len(written.dreams)}
        rejected = {f"rejected_{reason}": n for reason, n in written.rejected.items()}
        logger.scalars(0, figures | rejected | mix)
        figures |= {name: n for name, n in rejected.items() if n}
        bar.advance(1, **figures)
    run = run.note_day(scheduled.day, dreams=[dataclasses.asdict(x) for x in written.dreams])
    tokens = sum(len(x.tokens) for x in written.dreams)
    if not written.dreams:
        figures["skipped"] = "no dream is left of those that were written"
    return run.note(scheduled.label, tokens=tokens, **figures)


def programs(run: AbstractRun) -> list[Program]:
    """Reading, then dreams by templates that need a context and by those that hold the document."""
    if not run.has_dreams:
        return []
    writing, sizes = run.settings.dreaming.writing, run.sizes
    context, out = bucket(max(sizes.pages)), [reading(run, "write: read", sizes.pages)]
    names = ("write: sample", "write: sample from prompts", "write: sample texts")
    for call, (name, forms) in enumerate(zip(names, writing.sampling_calls)):
        prompts = [length for form in forms for length in sizes.write.get(form, ())]
        dreams = sampled(
            run,
            name,
            writing.sampling(END, forms[0]),
            prompts,
            context=0 if call else context,
            has_random_expert=writing.random_expert,
        )
        out += [dataclasses.replace(p, knobs=("data.chunk_tokens",)) for p in dreams]
    return out


WRITE = Phase("write", write, programs, resumable=True)
