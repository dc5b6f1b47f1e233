"""Evaluate: what the model knows now without the documents, and what that cost elsewhere."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sleep_jax.evals.metrics import perplexity
from sleep_jax.evals.recall import answer_accuracy, greedy_replies, negative_log_likelihood
from sleep_jax.experiment import Day, Experiment, TestQuestion
from sleep_jax.interop.prompts import answer_request
from sleep_jax.phases.run_state import PhaseLogger, RunState, awake
from sleep_jax.run_schedule import Step

STAGES = ("before sleep", "after consolidation", "after dreaming", "with the document in context")
OPEN_BOOK = "open_book_"  # what the metrics of the last stage, the ceiling, begin with


def evaluate(experiment: Experiment, run: RunState, logger: PhaseLogger, step: Step) -> RunState:
    """Asks the day's questions at every stage of its night, those of earlier days after it, and
    measures the anchor set.

    Documents that came without questions are asked about in the model's own words; replies are
    kept, there is no score.
    """
    day, earlier = experiment.days[step.day], experiment.days[: step.day]
    asked = [(q.document, q.text) for q in day.questions] or [
        (q["document"], q["question"])
        for q in run.day(step.day).get("study", {}).get("held_out", [])
    ]
    selves = dict(zip(STAGES, (run.before_sleep, run.before_dreams, run.current)))
    stages = stages_of(experiment)
    scores, replies = {}, {}
    with logger.bar(len(stages) + len(earlier), "stage") as bar:
        for stage in stages:
            if stage in selves:
                variables, context = selves[stage].on(experiment.params), None
            else:
                reader = awake(experiment, run, day.documents)
                variables, context = reader.variables, reader.context
            replies[stage] = ask(experiment, variables, asked, context)
            scores[stage] = marks(day.questions, replies[stage])
            if (level := chance(day.questions, replies[stage])) is not None:
                scores[stage]["chance"] = level
            if stage in selves:
                scores[stage] |= {
                    name: anchor_perplexity(experiment, variables, name)
                    for name in experiment.anchors
                }
                logger.scalars(STAGES.index(stage), scores[stage])
            else:
                ceiling = {f"{OPEN_BOOK}{name}": x for name, x in scores[stage].items()}
                logger.scalars(STAGES.index(stage), ceiling)
            bar.advance(1, **_shown(scores[stage], stage in selves))
        recall = []
        for before in earlier:
            questions = [(q.document, q.text) for q in before.questions]
            answers = ask(experiment, run.current.on(experiment.params), questions)
            recall.append(marks(before.questions, answers))
            known = [share["questions"] for share in recall if "questions" in share]
            bar.advance(1, **({"earlier days": float(np.mean(known))} if known else {}))
        recall.append(marks(day.questions, replies[stages[-2]]))
    shares = {f"day_{i + 1}_{name}": x for i, r in enumerate(recall) for name, x in r.items()}
    logger.scalars(len(STAGES), shares)
    if asked:
        words = [f"**{text}**" for _, text in asked[: experiment.config.evaluation.samples]]
        for stage in stages:
            words = [f"{x}\n- {stage}: {y.strip()}" for x, y in zip(words, replies[stage])]
        logger.writer.text(logger.label, len(STAGES) + 1, "answers", "\n\n".join(words))
    run = run.note_day(step.day, scores=scores, replies=replies, recall=recall)
    run = run.note_day(step.day, asked=_asked(run.day(step.day), day))
    return run.note(step.label, tokens=0, questions=len(asked))


def _shown(scores: dict[str, float], is_closed_book: bool) -> dict[str, float]:
    """What the bar says of a stage: it is to end with what is known without the documents, and with
    the ceiling under a name of its own."""
    if not is_closed_book:
        return {"open-book ceiling": scores["questions"]} if "questions" in scores else {}
    named = {"paraphrases": "held-out wordings"}
    return {named.get(name, name): x for name, x in scores.items() if name != "chance"}


def stages_of(experiment: Experiment) -> list[str]:
    """The stages of a night, the ceiling last; without dreams there is none after them."""
    dreams = experiment.config.dreaming.steps > 0
    return [stage for stage in STAGES if dreams or stage != STAGES[2]]


def _asked(record: dict[str, Any], day: Day) -> list[dict[str, Any]]:
    """What the day's replies answer, so that its record can be read without its documents."""
    if day.questions:
        asked = [(q.document, q.text, q.answers) for q in day.questions]
    else:
        own = record.get("study", {}).get("held_out", [])
        asked = [(q["document"], q["question"], (q["answer"],)) for q in own]
    return [
        {"document": day.documents[document].title, "question": text, "answers": answers}
        for document, text, answers in asked
    ]


def marks(questions: Sequence[TestQuestion], replies: Sequence[str]) -> dict[str, float]:
    """Shares of right replies, to the questions and to their held-out wordings."""
    shares = {}
    for name, is_paraphrase in (("questions", False), ("paraphrases", True)):
        mine = [
            (r, q.answers) for r, q in zip(replies, questions) if q.is_paraphrase == is_paraphrase
        ]
        if mine:
            shares[name] = answer_accuracy(*zip(*mine))
    return shares


def chance(questions: Sequence[TestQuestion], replies: Sequence[str]) -> float | None:
    """What luck would earn: the share of questions that are answered by replies to others about the
    same document, which want another answer; None where no document has two such questions."""
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


def ask(experiment: Experiment, variables, asked: list[tuple[int, str]], context=None) -> list[str]:
    """Greedy replies to (document, question) pairs, from the weights alone or with the context."""
    if not asked:
        return []
    prompts = experiment.prompts
    return greedy_replies(
        experiment.cfg,
        variables,
        experiment.tokenizer,
        [
            prompts.without_context(text)
            if context is None
            else prompts.with_context(answer_request(text))
            for _, text in asked
        ],
        max_new_tokens=experiment.settings.evaluation.max_new_tokens,
        context=context,
        documents=None if context is None else [document for document, _ in asked],
    )
