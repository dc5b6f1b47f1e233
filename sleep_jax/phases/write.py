"""Write: the model, as it was when the day ended and with documents in view, dreams about them:
those of the day, and some of earlier days as it recollects them."""

import dataclasses

import jax

from sleep_jax.dreaming import write as dreaming
from sleep_jax.experiment import Experiment
from sleep_jax.phases.drafts import Drafts
from sleep_jax.phases.dream_contexts import draw_dream_contexts, dreamt_before, pages, subjects
from sleep_jax.phases.run_state import PhaseLogger, RunState, awake, key_of
from sleep_jax.run_schedule import Step


def write(experiment: Experiment, run: RunState, logger: PhaseLogger, step: Step) -> RunState:
    """Draws what the night dreams about, and puts on record the dreams it writes."""
    if "slot" not in run.day(step.day):
        with logger.bar(1, "step") as bar:
            bar.advance(1, written=0)
        return run.note(step.label, tokens=0, skipped="no slot of level 1 holds this day")
    key = key_of(experiment, step)
    with logger.bar(1, "step") as bar:
        run, mix = draw_dream_contexts(experiment, run, step.day)
        documents = pages(experiment, run, step.day)
        teacher = awake(experiment, run, documents)
        draw = Drafts(logger.mid_phase, lambda count: bar.advance(0, batches=count))
        written = dreaming.write_dreams(
            experiment.cfg,
            experiment.settings.dreaming.writing,
            teacher.variables,
            experiment.tokenizer,
            documents,
            teacher.context,
            chosen=sorted(subjects(experiment, run, step.day)),
            earlier=dreamt_before(experiment, run, step.day),
            rng=jax.random.fold_in(key, 0),
            expert_rng=jax.random.fold_in(key, 3),
            draw=draw,
        )
        bar.figures.pop("batches", None)  # told while they are drawn
        figures = {"written": written.count, "dreams": len(written.dreams)}
        rejected = {f"rejected_{reason}": n for reason, n in written.rejected.items()}
        logger.scalars(0, figures | rejected | mix)
        figures |= {name: n for name, n in rejected.items() if n}
        bar.advance(1, **figures)
    run = run.note_day(step.day, dreams=[dataclasses.asdict(x) for x in written.dreams])
    tokens = sum(len(x.tokens) for x in written.dreams)
    if not written.dreams:
        figures["skipped"] = "no dream is left of those that were written"
    return run.note(step.label, tokens=tokens, **figures)
