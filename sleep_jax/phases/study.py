"""Study: the model, as it was when the day ended and with its documents in view, writes about them
what the night will learn."""

import jax

from sleep_jax.itinerary import Step
from sleep_jax.phases.drafts import Drafts
from sleep_jax.phases.night import Desk, Night, awake, key_of
from sleep_jax.seeding import questions, self_study
from sleep_jax.seeding.self_study import Study
from sleep_jax.seeding.sequences import Exchange, Teacher
from sleep_jax.seeding.transaction import check_room
from sleep_jax.sleeper import Sleeper


def study(sleeper: Sleeper, night: Night, desk: Desk, step: Step) -> Night:
    """Puts on record the questions that the model asks itself about the day, with its answers, and
    its replies on general topics."""
    c, day = sleeper.config, sleeper.days[step.day]
    with desk.bar(2, "step") as bar:
        if check_room(sleeper.cfg.memory, night.now.slots, 1) == "skip":
            bar.advance(2)
            return night.note(step.label, tokens=0, skipped="level 1 is full")
        teacher, config = awake(sleeper, night, day.documents), sleeper.settings.study
        key = jax.random.fold_in(key_of(sleeper, step), 3)
        draw = Drafts(desk.bookmark, lambda count: bar.advance(0, batches=count))
        asked, drawn = questions.ask(
            sleeper.cfg,
            teacher.variables,
            sleeper.tokenizer,
            day.documents,
            teacher.context,
            config,
            {q.text for q in sleeper.questions},
            jax.random.fold_in(key, 0),
            draw,
        )
        bar.advance(1, questions=len(asked))
        rehearsed = rehearse(sleeper, teacher, jax.random.fold_in(key, 1), draw)
        bar.figures.pop("batches", None)  # told while they are drawn
        bar.advance(1, rehearsed=len(rehearsed))
    held_out, learnt = questions.hold_out(asked, c.dreaming.held_out)
    written = Study(tuple(held_out), tuple(learnt), tuple(rehearsed))
    night = night.note_day(step.day, study=written.record())
    figures = {"questions_drawn": drawn, "questions_kept": len(asked)}
    tokens = sum(len(e.completion) for e in studied(sleeper, night, step.day))
    return night.note(step.label, tokens=tokens, **figures, rehearsed=len(rehearsed))


def rehearse(sleeper: Sleeper, teacher: Teacher, key, draw=None) -> list[Exchange]:
    """A teacher's replies on general topics; `draw` as for `questions.ask`."""
    config = sleeper.settings.study
    return self_study.rehearse(
        sleeper.cfg, teacher.variables, sleeper.tokenizer, sleeper.topics, config, key, draw
    )


def studied(sleeper: Sleeper, night: Night, day: int) -> list[Exchange]:
    """All teacher-written sequences of a day's night, from its record."""
    written, c = Study.of(night.day(day)["study"]), sleeper.config
    documents = sleeper.days[day].documents
    return written.exchanges(documents, sleeper.prompts, sleeper.settings.study, c.seed)
