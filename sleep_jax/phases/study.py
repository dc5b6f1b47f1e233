"""Study: the model, as it was when the day ended and with its documents in view, writes about them
what the night will learn."""

import jax

from sleep_jax.experiment import Experiment
from sleep_jax.phases.drafts import Drafts
from sleep_jax.phases.run_state import PhaseLogger, RunState, awake, key_of
from sleep_jax.run_schedule import Step
from sleep_jax.seeding.sequences import Exchange, Teacher
from sleep_jax.seeding.transaction import check_capacity
from sleep_jax.study import questions, self_study
from sleep_jax.study.self_study import Study


def study(experiment: Experiment, run: RunState, logger: PhaseLogger, step: Step) -> RunState:
    """Puts on record the questions that the model asks itself about the day, with its answers, and
    its replies on general topics."""
    c, day = experiment.config, experiment.days[step.day]
    with logger.bar(2, "step") as bar:
        if check_capacity(experiment.cfg.memory, run.current.slots, 1) == "skip":
            bar.advance(2)
            return run.note(step.label, tokens=0, skipped="level 1 is full")
        teacher, config = awake(experiment, run, day.documents), experiment.settings.study
        key = jax.random.fold_in(key_of(experiment, step), 3)
        draw = Drafts(logger.mid_phase, lambda count: bar.advance(0, batches=count))
        asked, drawn = questions.write_questions(
            experiment.cfg,
            teacher.variables,
            experiment.tokenizer,
            day.documents,
            teacher.context,
            config,
            {q.text for q in experiment.questions},
            jax.random.fold_in(key, 0),
            draw,
        )
        bar.advance(1, questions=len(asked))
        rehearsed = rehearse(experiment, teacher, jax.random.fold_in(key, 1), draw)
        bar.figures.pop("batches", None)  # told while they are drawn
        bar.advance(1, rehearsed=len(rehearsed))
    held_out, learnt = questions.hold_out(asked, c.dreaming.held_out)
    written = Study(tuple(held_out), tuple(learnt), tuple(rehearsed))
    run = run.note_day(step.day, study=written.to_record())
    figures = {"questions_drawn": drawn, "questions_kept": len(asked)}
    tokens = sum(len(e.completion) for e in studied(experiment, run, step.day))
    return run.note(step.label, tokens=tokens, **figures, rehearsed=len(rehearsed))


def rehearse(experiment: Experiment, teacher: Teacher, key, draw=None) -> list[Exchange]:
    """A teacher's replies on general topics; `draw` as for `questions.write_questions`."""
    config = experiment.settings.study
    return self_study.rehearse(
        experiment.cfg,
        teacher.variables,
        experiment.tokenizer,
        experiment.topics,
        config,
        key,
        draw,
    )


def studied(experiment: Experiment, run: RunState, day: int) -> list[Exchange]:
    """All teacher-written sequences of a day's night, from its record."""
    written, c = Study.from_record(run.day(day)["study"]), experiment.config
    documents = experiment.days[day].documents
    return written.exchanges(documents, experiment.prompts, experiment.settings.study, c.seed)
