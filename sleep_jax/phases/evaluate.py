"""Evaluate: what the model knows now without the documents, and what that cost elsewhere."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sleep_jax.data.batches import bucket
from sleep_jax.days import Day, EvalQuestion
from sleep_jax.evals.metrics import perplexity
from sleep_jax.evals.recall import answer_accuracy, greedy_replies, negative_log_likelihood
from sleep_jax.experiment import Experiment
from sleep_jax.interop.prompts import answer_request
from sleep_jax.phases.own_questions import are_asked_at_night, asked_programs, note_kept
from sleep_jax.phases.phase import Phase
from sleep_jax.phases.run_state import PhaseLogger, RunState, awake
from sleep_jax.phases.tasks import note_tasks
from sleep_jax.programs.abstract import AbstractRun
from sleep_jax.programs.calls import greedy, losses_of_texts, reading, repeated, sampled
from sleep_jax.programs.program import Program
from sleep_jax.run_schedule import ScheduledPhase

STAGES = ("before sleep", "after consolidation", "after dreaming", "with the document in context")
OPEN_BOOK = "open_book_"  # what the metrics of the last stage, the ceiling, begin with


def evaluate(
    experiment: Experiment, run: RunState, logger: PhaseLogger, scheduled: ScheduledPhase
) -> RunState:
    """Asks the day's questions at every stage of its night, those of earlier days after it, and
    measures the anchor set, then tasks (`phases.tasks`); then it says what the night kept
    (`phases.own_questions`).

    Documents that came without questions are asked about in the model's own words; replies are
    kept, there is no score.
    """
    day, earlier = experiment.days[scheduled.day], experiment.days[: scheduled.day]
    questions = questions_of(experiment, run, scheduled.day)
    states = dict(zip(STAGES, (run.before_sleep, run.before_dreams, run.current)))
    stages = stages_of(experiment)
    scores, replies = {}, {}
    with logger.bar(len(stages) + len(earlier), "stage") as bar:
        for stage in stages:
            if stage in states:
                variables, context = states[stage].variables(experiment.params), None
            else:
                teacher = awake(experiment, run, day.documents)
                variables, context = teacher.variables, teacher.context
            replies[stage] = ask(experiment, variables, questions, context)
            scores[stage] = shares_right(day.questions, replies[stage])
            if (level := chance(day.questions, replies[stage])) is not None:
                scores[stage]["chance"] = level
            if stage in states:
                scores[stage] |= {
                    name: anchor_perplexity(experiment, variables, name)
                    for name in experiment.anchors
                }
                logger.scalars(STAGES.index(stage), scores[stage])
            else:
                ceiling = {f"{OPEN_BOOK}{name}": x for name, x in scores[stage].items()}
                logger.scalars(STAGES.index(stage), ceiling)
            bar.advance(1, **_shown(scores[stage], stage in states))
        recall = []
        for before in earlier:
            pairs = [(q.document, q.text) for q in before.questions]
            answers = ask(experiment, run.current.variables(experiment.params), pairs)
            recall.append(shares_right(before.questions, answers))
            known = [share["questions"] for share in recall if "questions" in share]
            bar.advance(1, **({"earlier days": float(np.mean(known))} if known else {}))
        recall.append(shares_right(day.questions, replies[stages[-2]]))
    shares = {f"day_{i + 1}_{name}": x for i, r in enumerate(recall) for name, x in r.items()}
    logger.scalars(len(STAGES), shares)
    if questions:
        words = [
            f"**{text}**" for _, text in questions[: experiment.config.evaluation.report_samples]
        ]
        for stage in stages:
            words = [f"{x}\n- {stage}: {y.strip()}" for x, y in zip(words, replies[stage])]
        logger.writer.text(logger.label, len(STAGES) + 1, "answers", "\n\n".join(words))
    run = run.note_day(scheduled.day, scores=scores, replies=replies, recall=recall)
    run = run.note_day(scheduled.day, asked=_asked(run.day(scheduled.day), day))
    run = run.note(scheduled.label, tokens=0, questions=len(questions))
    run = note_tasks(experiment, run, logger, scheduled.day, (0, STAGES.index(stages[-2])))
    if experiment.config.evaluation.own_questions:
        run = note_kept(experiment, run, logger, scheduled, teacher)
    return run


def questions_of(experiment: Experiment, run: RunState, day: int) -> list[tuple[int, str]]:
    """(document, text) of each question that a day is asked: the user's or, without any, those that
    the model wrote itself and did not learn from."""
    held_out = run.day(day).get("study", {}).get("held_out", [])
    return [(q.document, q.text) for q in experiment.days[day].questions] or [
        (q["document"], q["question"]) for q in held_out
    ]


def _shown(scores: dict[str, float], is_closed_book: bool) -> dict[str, float]:
    """The figures of a stage as the progress bar names them: the closed-book scores as they are,
    the open-book one as the ceiling."""
    if not is_closed_book:
        return {"open-book ceiling": scores["questions"]} if "questions" in scores else {}
    named = {"paraphrases": "held-out wordings"}
    return {named.get(name, name): x for name, x in scores.items() if name != "chance"}


def stages_of(experiment: Experiment | AbstractRun) -> list[str]:
    """The stages of a night, the ceiling last; without dreams there is none after them."""
    dreams = experiment.config.dreaming.steps > 0
    return [stage for stage in STAGES if dreams or stage != STAGES[2]]


def _asked(record: dict[str, Any], day: Day) -> list[dict[str, Any]]:
    """The questions that the day's replies answer, for readers of the record who lack the
    documents."""
    if day.questions:
        asked = [(q.document, q.text, q.answers) for q in day.questions]
    else:
        held_out = record.get("study", {}).get("held_out", [])
        asked = [(q["document"], q["question"], (q["answer"],)) for q in held_out]
    return [
        {"document": day.documents[document].title, "question": text, "answers": answers}
        for document, text, answers in asked
    ]


def shares_right(questions: Sequence[EvalQuestion], replies: Sequence[str]) -> dict[str, float]:
    """Shares of right replies, to the questions and to their held-out wordings."""
    shares = {}
    for name, is_paraphrase in (("questions", False), ("paraphrases", True)):
        pairs = [
            (r, q.answers) for r, q in zip(replies, questions) if q.is_paraphrase == is_paraphrase
        ]
        if pairs:
            shares[name] = answer_accuracy(*zip(*pairs))
    return shares


def chance(questions: Sequence[EvalQuestion], replies: Sequence[str]) -> float | None:
    """The score that chance would give: the share of questions that are answered by the replies to
    other questions about the same document with another answer; None where no document has two
    such questions."""
    asked = [(q, reply) for q, reply in zip(questions, replies) if not q.is_paraphrase]
    pairs = [
        (reply, q.answers)
        for q, _ in asked
        for other, reply in asked
        if other.document == q.document and other.answers != q.answers
    ]
    return answer_accuracy(*zip(*pairs)) if pairs else None


def anchor_perplexity(experiment: Experiment, variables, name: str) -> float:
    """Perplexity of one anchor set."""
    anchors = experiment.anchors[name]
    return perplexity(
        *negative_log_likelihood(experiment.cfg, variables, anchors.tokens, anchors.mask)
    )


def ask(
    experiment: Experiment, variables, questions: list[tuple[int, str]], context=None
) -> list[str]:
    """Greedy replies to (document, question) pairs, from the weights alone or with the context."""
    if not questions:
        return []
    return greedy_replies(
        experiment.cfg,
        variables,
        experiment.tokenizer,
        [question_prompt(experiment, text, context is not None) for _, text in questions],
        max_new_tokens=experiment.settings.evaluation.max_new_tokens,
        context=context,
        documents=None if context is None else [document for document, _ in questions],
    )


def question_prompt(experiment: Experiment, text: str, has_context: bool) -> tuple[int, ...]:
    """The prompt of a question, from the weights alone or after the document."""
    prompts = experiment.prompts
    if has_context:
        return prompts.with_context(answer_request(text))
    return prompts.without_context(text)


def programs(run: AbstractRun) -> list[Program]:
    """Questions at every stage, and the anchor sets at those without a context; questions of
    earlier days are more calls of the same. Those of tasks are left out: what these ask is known to
    lm_eval alone, and the plan of a run says so."""
    sizes, closed = run.sizes, len(stages_of(run)) - 1
    how = greedy(run.settings.evaluation.max_new_tokens)
    without, after = ([pair[i] for pair in sizes.questions] for i in (0, 1))
    context = bucket(max(sizes.contexts))
    return [
        *repeated(sampled(run, "evaluate: answer", how, without), closed),
        *losses_of_texts(run, "evaluate: anchors", sizes.anchors, closed),
        reading(run, "evaluate: read", sizes.contexts),
        *sampled(run, "evaluate: answer from context", how, after, context=context),
        *asked_programs(run, "evaluate: ask own", 1, not are_asked_at_night(run)),
    ]


EVALUATE = Phase("evaluate", evaluate, programs)
