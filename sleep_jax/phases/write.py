"""Write: the model, as it was when the day ended and with documents in view, dreams about them:
those of the day, and some of earlier days as it recollects them."""

import dataclasses

import jax

from sleep_jax.dreaming import write as dreaming
from sleep_jax.itinerary import Step
from sleep_jax.phases.agenda import draw_agenda, dreamt_before, pages, subjects
from sleep_jax.phases.drafts import Drafts
from sleep_jax.phases.night import Desk, Night, awake, key_of
from sleep_jax.sleeper import Sleeper


def write(sleeper: Sleeper, night: Night, desk: Desk, step: Step) -> Night:
    """Draws what the night dreams about, and puts on record the dreams it writes."""
    if "slot" not in night.day(step.day):
        with desk.bar(1, "step") as bar:
            bar.advance(1, written=0)
        return night.note(step.label, tokens=0, skipped="no slot of level 1 holds this day")
    key = key_of(sleeper, step)
    with desk.bar(1, "step") as bar:
        night, mix = draw_agenda(sleeper, night, step.day)
        documents = pages(sleeper, night, step.day)
        teacher = awake(sleeper, night, documents)
        draw = Drafts(desk.bookmark, lambda count: bar.advance(0, batches=count))
        written = dreaming.write(
            sleeper.cfg,
            sleeper.settings.dreaming.writing,
            teacher.variables,
            sleeper.tokenizer,
            documents,
            teacher.context,
            chosen=sorted(subjects(sleeper, night, step.day)),
            earlier=dreamt_before(sleeper, night, step.day),
            rng=jax.random.fold_in(key, 0),
            expert_rng=jax.random.fold_in(key, 3),
            draw=draw,
        )
        bar.figures.pop("batches", None)  # told while they are drawn
        figures = {"written": written.count, "dreams": len(written.dreams)}
        rejected = {f"rejected_{reason}": n for reason, n in written.rejected.items()}
        desk.scalars(0, figures | rejected | mix)
        figures |= {name: n for name, n in rejected.items() if n}
        bar.advance(1, **figures)
    night = night.note_day(step.day, dreams=[dataclasses.asdict(x) for x in written.dreams])
    tokens = sum(len(x.tokens) for x in written.dreams)
    if not written.dreams:
        figures["skipped"] = "no dream is left of those that were written"
    return night.note(step.label, tokens=tokens, **figures)
