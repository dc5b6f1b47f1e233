"""Evaluate: what the model knows now without the documents, and what that cost elsewhere."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sleep_jax.evals.metrics import perplexity
from sleep_jax.evals.recall import negative_log_likelihood, reply, share_right
from sleep_jax.itinerary import Step
from sleep_jax.phases.night import Desk, Night, awake
from sleep_jax.seeding import prompts as requests
from sleep_jax.sleeper import Day, Sleeper, TestQuestion

STAGES = ("before sleep", "after consolidation", "after dreaming", "with the document in context")
OPEN_BOOK = "open_book_"  # what the metrics of the last stage, the ceiling, begin with


def evaluate(sleeper: Sleeper, night: Night, desk: Desk, step: Step) -> Night:
    """Asks the day's questions at every stage of its night, those of earlier days after it, and
    measures the anchor set.

    Documents that came without questions are asked about in the model's own words; replies are
    kept, there is no score.
    """
    day, earlier = sleeper.days[step.day], sleeper.days[: step.day]
    asked = [(q.document, q.text) for q in day.questions] or [
        (q["document"], q["question"])
        for q in night.day(step.day).get("study", {}).get("held_out", [])
    ]
    selves = dict(zip(STAGES, (night.evening, night.consolidated, night.now)))
    stages = stages_of(sleeper)
    scores, replies = {}, {}
    with desk.bar(len(stages) + len(earlier), "stage") as bar:
        for stage in stages:
            if stage in selves:
                variables, context = selves[stage].on(sleeper.params), None
            else:
                reader = awake(sleeper, night, day.documents)
                variables, context = reader.variables, reader.context
            replies[stage] = ask(sleeper, variables, asked, context)
            scores[stage] = marks(day.questions, replies[stage])
            if (level := chance(day.questions, replies[stage])) is not None:
                scores[stage]["chance"] = level
            if stage in selves:
                scores[stage] |= {
                    name: anchor_perplexity(sleeper, variables, name) for name in sleeper.anchors
                }
                desk.scalars(STAGES.index(stage), scores[stage])
            else:
                ceiling = {f"{OPEN_BOOK}{name}": x for name, x in scores[stage].items()}
                desk.scalars(STAGES.index(stage), ceiling)
            bar.advance(1, **_shown(scores[stage], stage in selves))
        recall = []
        for before in earlier:
            questions = [(q.document, q.text) for q in before.questions]
            answers = ask(sleeper, night.now.on(sleeper.params), questions)
            recall.append(marks(before.questions, answers))
            known = [share["questions"] for share in recall if "questions" in share]
            bar.advance(1, **({"earlier days": float(np.mean(known))} if known else {}))
        recall.append(marks(day.questions, replies[stages[-2]]))
    shares = {f"day_{i + 1}_{name}": x for i, r in enumerate(recall) for name, x in r.items()}
    desk.scalars(len(STAGES), shares)
    if asked:
        words = [f"**{text}**" for _, text in asked[: sleeper.config.evaluation.samples]]
        for stage in stages:
            words = [f"{x}\n- {stage}: {y.strip()}" for x, y in zip(words, replies[stage])]
        desk.writer.text(desk.label, len(STAGES) + 1, "answers", "\n\n".join(words))
    night = night.note_day(step.day, scores=scores, replies=replies, recall=recall)
    night = night.note_day(step.day, asked=_asked(night.day(step.day), day))
    return night.note(step.label, tokens=0, questions=len(asked))


def _shown(scores: dict[str, float], is_closed_book: bool) -> dict[str, float]:
    """What the bar says of a stage: it is to end with what is known without the documents, and with
    the ceiling under a name of its own."""
    if not is_closed_book:
        return {"open-book ceiling": scores["questions"]} if "questions" in scores else {}
    named = {"paraphrases": "held-out wordings"}
    return {named.get(name, name): x for name, x in scores.items() if name != "chance"}


def stages_of(sleeper: Sleeper) -> list[str]:
    """The stages of a night, the ceiling last; without dreams there is none after them."""
    dreams = sleeper.config.dreaming.steps > 0
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
            shares[name] = share_right(*zip(*mine))
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
    return share_right(*zip(*pairs)) if pairs else None


def anchor_perplexity(sleeper: Sleeper, variables, name: str) -> float:
    """Perplexity of one anchor set."""
    anchors = sleeper.anchors[name]
    return perplexity(
        *negative_log_likelihood(sleeper.cfg, variables, anchors.tokens, anchors.mask)
    )


def ask(sleeper: Sleeper, variables, asked: list[tuple[int, str]], context=None) -> list[str]:
    """Greedy replies to (document, question) pairs, from the weights alone or with the context."""
    if not asked:
        return []
    prompts = sleeper.prompts
    return reply(
        sleeper.cfg,
        variables,
        sleeper.tokenizer,
        [
            prompts.alone(text) if context is None else prompts.beside(requests.answer(text))
            for _, text in asked
        ],
        max_new_tokens=sleeper.settings.evaluation.max_new_tokens,
        context=context,
        documents=None if context is None else [document for document, _ in asked],
    )
