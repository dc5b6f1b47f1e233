"""Study: the model, as it was when the day ended and with its documents in view, writes about them
what the night will learn."""

import functools

import jax

from sleep_jax.data.batches import bucket
from sleep_jax.experiment import Experiment
from sleep_jax.phases.drafts import Drafts
from sleep_jax.phases.phase import Phase
from sleep_jax.phases.rng_streams import key_of
from sleep_jax.phases.run_state import PhaseLogger, RunState
from sleep_jax.phases.screened import documents_to_learn, note_screened, screening
from sleep_jax.phases.teachers import teacher_of_day
from sleep_jax.programs.abstract import AbstractRun
from sleep_jax.programs.calls import END, greedy, reading, repeated, sampled
from sleep_jax.programs.program import Program
from sleep_jax.run_schedule import ScheduledPhase
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.seeding.sequences import Exchange, Teacher
from sleep_jax.seeding.transaction import check_capacity
from sleep_jax.study import earlier, questions, rehearsal, strategies, variants
from sleep_jax.study.self_study import Study


def study(
    experiment: Experiment, run: RunState, logger: PhaseLogger, scheduled: ScheduledPhase
) -> RunState:
    """Puts on record the questions that the model asks itself about the day, with its answers, and
    its replies on general topics."""
    c = experiment.config
    run = note_screened(experiment, run, scheduled.day)
    documents = documents_to_learn(experiment, run, scheduled.day)
    # Those of later days may not be known yet.
    tests = {q.text for q in experiment.questions_until(scheduled.day)}
    with logger.bar(2, "step") as bar:
        if check_capacity(experiment.cfg.memory, run.current.slots, 1) == "skip":
            bar.advance(2)
            return run.note(scheduled.label, tokens=0, skipped="level 1 is full")
        teacher = teacher_of_day(experiment, run, documents)
        config = experiment.settings.study
        draw = Drafts(logger.mid_phase, lambda count: bar.advance(0, batches=count))
        self_questions, drawn = questions.write_questions(
            experiment.cfg,
            teacher.variables,
            experiment.tokenizer,
            documents,
            teacher.context,
            config,
            tests,
            key_of(experiment, scheduled, "questions"),
            draw,
        )
        bar.advance(1, questions=len(self_questions))
        key = key_of(experiment, scheduled, "rehearsals")
        rehearsed = rehearse(experiment, teacher, key, draw)
        key = key_of(experiment, scheduled, "earlier")
        asked_again = ask_again(experiment, run, teacher, scheduled.day, key, draw)
        held_out, learnt = questions.hold_out(self_questions, c.dreaming.held_out)
        varied, dropped = variants.write_variants(
            experiment.cfg,
            teacher.variables,
            experiment.tokenizer,
            documents,
            teacher.context,
            config,
            experiment.settings.dreaming.writing.rejection,
            tests | {q.question for q in held_out},
            key_of(experiment, scheduled, "variants"),
            draw,
        )
        bar.figures.pop("batches", None)  # shown while they are drawn
        bar.advance(1, rehearsed=len(rehearsed))
    written = Study(
        held_out=tuple(held_out),
        learnt=tuple(learnt),
        rehearsed=tuple(rehearsed),
        earlier=tuple(asked_again),
        variants=tuple(varied),
    )
    run = run.note_day(scheduled.day, study=written.to_record())
    figures = {"questions_drawn": drawn, "questions_kept": len(self_questions)}
    if config.multiple:
        kept = {kind: sum(e.kind == kind for e in varied) for kind in config.variants}
        figures |= kept | {f"dropped_{reason}": n for reason, n in dropped.items()}
        figures["variant_tokens"] = sum(len(e.completion) for e in varied)
    tokens = sum(len(e.completion) for e in studied(experiment, run, scheduled.day))
    return run.note(scheduled.label, tokens=tokens, **figures, rehearsed=len(rehearsed))


def rehearse(experiment: Experiment, teacher: Teacher, key, draw=None) -> list[Exchange]:
    """Replies on general topics, to questions about these, and free texts, by the teacher of
    rehearsals; `draw` as for `questions.write_questions`."""
    config, topics = experiment.settings.study, experiment.topics
    model = experiment.cfg, teacher.of_rehearsals.variables, experiment.tokenizer
    replies = rehearsal.rehearse(*model, topics, config, key, draw)
    longest = experiment.settings.seeding.shape.max_length
    calls = len(rehearsal.rehearsal_calls(config))
    freely, again = (jax.random.fold_in(key, calls + i) for i in range(2))
    texts = rehearsal.free_texts(*model, config, freely, draw) if config.free_texts else []
    return (
        replies
        + texts
        + rehearsal.read_again(*model, topics, replies, config, longest, again, draw)
    )


def ask_again(
    experiment: Experiment, run: RunState, teacher: Teacher, day: int, key, draw=None
) -> list[Exchange]:
    """Questions that the model asked itself before a day, on days that a slot was seeded with,
    answered by the teacher of what was known or as they were then.

    Args:
      experiment, run: whose record has the questions.
      teacher: of the night.
      day: the first that the night hands over.
      key: PRNG key.
      draw: as for `questions.write_questions`.
    """
    days = [run.day(d) for d in range(day)]
    studies = [Study.from_record(x["study"]) for x in days if "study" in x and "slot" in x]
    config = experiment.settings.study
    return earlier.ask_again(
        experiment.cfg,
        teacher.of_known.variables,
        experiment.tokenizer,
        earlier.draw_questions(
            studies, config.earlier_questions, key, is_answered=config.earlier_answers == "stored"
        ),
        config,
        key,
        draw,
    )


def studied(experiment: Experiment, run: RunState, day: int) -> list[Exchange]:
    """All teacher-written sequences of a day's night, from its record."""
    written, c = Study.from_record(run.day(day)["study"]), experiment.config
    documents = documents_to_learn(experiment, run, day)
    return written.exchanges(documents, experiment.prompts, experiment.settings.study, c.seed)


def programs(run: AbstractRun) -> list[Program]:
    """Reading, then questions, answers and rehearsals; none where the context never sleeps."""
    if not run.config.memory.from_context:
        return []
    config, sizes = run.settings.study, run.sizes
    sampling = SamplingConfig(
        config.max_question_tokens,
        END,
        temperature=config.temperature,
        num_generations=config.questions,
    )
    reply, context = greedy(config.max_chat_tokens), bucket(max(sizes.contexts))
    return [
        *screening(run),
        reading(run, "study: read", sizes.contexts),
        *sampled(run, "study: ask", sampling, sizes.ask),
        *sampled(run, "study: answer", reply, sizes.answer, context=context),
        *rehearsing(run, "study"),
        *asking_again(run, "study"),
        *varying(run, context),
    ]


def varying(run: AbstractRun, context: int) -> list[Program]:
    """Strategies that are suggested, and variants, turn by turn; none where `multiple` is 0."""
    config, sizes = run.settings.study, run.sizes
    suggesting = strategies.suggesting(config, END)
    turns = config.variant_turns(max(sizes.contexts))
    return [
        *sampled(run, "study: suggest", suggesting, sizes.suggest),
        *repeated(
            sampled(run, "study: vary", variants.writing(config, END), sizes.vary, context=context),
            turns,
        ),
    ]


def rehearsing(run: AbstractRun, phase: str) -> list[Program]:
    """Replies on general topics and questions about them; where a chat has thoughts, texts are
    another program."""
    config, out = run.settings.study, []
    names = (f"{phase}: rehearse", f"{phase}: rehearse texts")
    if config.rehearsals:
        sampling = functools.partial(
            SamplingConfig,
            eos_ids=END,
            temperature=config.temperature,
            num_generations=config.rehearsals,
        )
        for name, (part, longest) in zip(names, rehearsal.rehearsal_calls(config)):
            out += sampled(run, name, sampling(longest), run.sizes.rehearse[part])
    free, asking = rehearsal.free_sampling(config, END), rehearsal.asking(config, END)
    return [
        *out,
        *sampled(run, f"{phase}: rehearse free texts", free, run.sizes.free_texts),
        *sampled(run, f"{phase}: rehearse questions", asking, run.sizes.ask_again),
        *sampled(
            run, f"{phase}: rehearse reading", greedy(config.max_chat_tokens), run.sizes.read_again
        ),
    ]


def asking_again(run: AbstractRun, phase: str) -> list[Program]:
    """Replies to earlier questions, unless those that were stored are learnt."""
    config = run.settings.study
    if config.earlier_answers == "stored":
        return []
    return sampled(run, f"{phase}: ask again", greedy(config.max_chat_tokens), run.sizes.earlier)


STUDY = Phase("study", study, programs, resumable=True)
