"""The model's own held-out questions, asked again: with the book open by the teacher of their
night, closed book by what the night has made of the model. They say what a night kept, end it early
or later (`seeding.eval_steps`), and the gate judges by them (`gate.answers`).

At most `evaluation.own_questions` of a day are asked, spread evenly over its held-out ones. A reply
is right if it contains the answer that the model gave when it wrote the question, as a run of whole
words, or means the same (`seeding.judge`).
"""

from collections.abc import Sequence

from sleep_jax.data.batches import bucket
from sleep_jax.evals.kept import KeptAnswers, kept_line
from sleep_jax.evals.metrics import contains_answer
from sleep_jax.evals.recall import greedy_replies
from sleep_jax.experiment import Experiment
from sleep_jax.interop.prompts import answer_request
from sleep_jax.phases.run_state import PhaseLogger, RunState
from sleep_jax.programs.abstract import AbstractRun
from sleep_jax.programs.calls import greedy, judged, repeated, sampled
from sleep_jax.programs.program import Program
from sleep_jax.programs.sizes import PROMPT
from sleep_jax.run_schedule import ScheduledPhase
from sleep_jax.runtime.progress import say
from sleep_jax.seeding.early_stopping import OwnAnswers
from sleep_jax.seeding.sequences import Teacher
from sleep_jax.study.questions import SelfQuestion
from sleep_jax.study.self_study import Study


def own_questions(experiment: Experiment, run: RunState, day: int) -> list[SelfQuestion]:
    """The own questions of a day that are asked again, as many as its night asked; [] where nothing
    was studied, or the day was forgotten."""
    record = {} if run.is_forgotten(day) else run.day(day)
    held_out = Study.from_record(record["study"]).held_out if "study" in record else ()
    asked = record.get("own_open_book")
    count = experiment.settings.evaluation.own_questions if asked is None else len(asked)
    count = min(count, len(held_out))
    return [held_out[(2 * i + 1) * len(held_out) // (2 * count)] for i in range(count)]


def answer_right(
    experiment: Experiment, variables, questions: Sequence[SelfQuestion], context=None
) -> list[bool]:
    """Whether a model answers each of these questions right.

    Args:
      experiment: whose questions they are.
      variables: collections of the model.
      questions: held-out ones.
      context: the cache that has a row for each of their documents; None: closed book.
    """
    if not questions:
        return []
    config, has_context = experiment.settings.evaluation, context is not None
    # The same rows and width whatever is asked, for one program; rows that are left ask again.
    rows = config.own_questions
    asked = [*questions, *[questions[0]] * (-len(questions) % rows)]
    tokens = [_prompt(experiment, q.question, has_context) for q in asked]
    replies = greedy_replies(
        experiment.cfg,
        variables,
        experiment.tokenizer,
        tokens,
        max_new_tokens=config.max_new_tokens,
        context=context,
        documents=[q.document for q in asked] if has_context else None,
        width=bucket(longest_prompt(experiment, questions, has_context)),
        batch=rows,
    )
    replies, answers = replies[: len(questions)], [q.answer for q in questions]
    judged_the_same = experiment.judge(replies, answers)
    return [
        contains_answer(reply, answer) or bool(is_same)
        for reply, answer, is_same in zip(replies, answers, judged_the_same)
    ]


def longest_prompt(
    experiment: Experiment, questions: Sequence[SelfQuestion], has_context: bool
) -> int:
    """Tokens of the longest prompt of these own questions, or of any that the model may write."""
    any_question = len(_prompt(experiment, "", has_context))
    any_question += experiment.settings.study.max_question_tokens
    lengths = [len(_prompt(experiment, q.question, has_context)) for q in questions]
    return max(any_question, *lengths)


def _prompt(experiment: Experiment, question: str, has_context: bool) -> tuple[int, ...]:
    prompts = experiment.prompts
    if has_context:
        return prompts.with_context(answer_request(question))
    return prompts.without_context(question)


class NightQuestions:
    """The own questions of the days that a night hands over.

    Attributes:
      questions: those that are asked.
      right: whether the night's teacher answers each of them right: with the book open where it has
        the documents in view, else as it is before the night.
    """

    def __init__(self, experiment: Experiment, run: RunState, days: Sequence[int], teacher: Teacher,
                 is_open_book: bool):  # fmt: skip
        self._experiment = experiment
        self.questions = [q for day in days for q in own_questions(experiment, run, day)]
        context = teacher.context if is_open_book else None
        self.right = answer_right(experiment, teacher.variables, self.questions, context)

    def as_answers(self) -> OwnAnswers:
        """How students answer those that the teacher answers right."""
        questions = [q for q, is_right in zip(self.questions, self.right) if is_right]
        return OwnAnswers(
            lambda student: sum(answer_right(self._experiment, student, questions)), len(questions)
        )


def are_asked_at_night(experiment: Experiment | AbstractRun) -> bool:
    """Whether they are asked while a night learns."""
    settings = experiment.settings
    return settings.gate.answers > 0 or settings.seeding.eval_steps > 0


def note_open_book(run: RunState, day: int, right: Sequence[bool]) -> RunState:
    """The run with what was right with the book open, on record of its day."""
    return run.note_day(day, own_open_book=[*right])


def kept_answers(experiment: Experiment, run: RunState, variables, days: int) -> list[KeptAnswers]:
    """How many own questions of each of the first days a model answers right closed book, of those
    that were right with the book open on their day.

    Args:
      experiment, run: whose record has the questions.
      variables: collections of the model.
      days: how many.
    """
    asked = [
        own_questions(experiment, run, day) if "own_open_book" in run.day(day) else []
        for day in range(days)
    ]
    now = iter(answer_right(experiment, variables, [q for questions in asked for q in questions]))
    kept = []
    for day, questions in enumerate(asked):
        open_book, closed = run.day(day).get("own_open_book", []), [next(now) for _ in questions]
        right = sum(a and b for a, b in zip(closed, open_book))
        kept.append(KeptAnswers(right, sum(open_book), len(questions)))
    return kept


def note_kept(
    experiment: Experiment,
    run: RunState,
    logger: PhaseLogger,
    scheduled: ScheduledPhase,
    teacher: Teacher,
) -> RunState:
    """Puts on record how many own questions of this day and of each earlier one are answered right
    closed book now, of those that were right with the book open on their day; for this day asks
    `teacher`, who has the documents in view, unless its night did."""
    day = scheduled.day
    if (right := run.day(day).get("own_open_book")) is None:
        questions = own_questions(experiment, run, day)
        right = answer_right(experiment, teacher.variables, questions, teacher.context)
    run = note_open_book(run, day, right)
    kept = kept_answers(experiment, run, run.current.variables(experiment.params), day + 1)
    if not any(x.asked for x in kept):
        return run
    figures = {}
    for d, x in enumerate(kept, 1):
        figures |= {f"kept_day_{d}": x.right, f"open_book_day_{d}": x.open_book}
    logger.scalars(0, figures)
    say(f"kept: {kept_line(kept)}", quiet=logger.quiet)
    run = run.note_day(day, kept_answers=[x.to_record() for x in kept])
    return run.note(scheduled.label, kept=kept_line(kept))


def asked_programs(run: AbstractRun, name: str, closed: int, is_open: bool) -> list[Program]:
    """`closed` times the answers without a context and, where it `is_open`, once those with it."""
    settings, sizes = run.settings, run.sizes
    rows, how = settings.evaluation.own_questions, greedy(settings.evaluation.max_new_tokens)
    are_written = settings.study.questions and settings.memory.from_context and any(sizes.items)
    if not (rows and are_written):
        return []
    without, after = sizes.own_question
    out = repeated(sampled(run, name, how, [without] * rows, batch=rows), closed)
    if is_open:
        context, title = bucket(max(sizes.contexts)), f"{name} from context"
        out += sampled(run, title, how, [after] * rows, context=context, batch=rows)
    if settings.seeding.judge == "model":  # every pair in both orders
        longest = PROMPT + settings.study.max_answer_tokens + settings.evaluation.max_new_tokens
        judge = judged(run, f"{name}: judge", 2 * rows, longest)
        out += repeated([judge], closed + is_open)
    return out
