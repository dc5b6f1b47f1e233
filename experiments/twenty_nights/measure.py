"""What a model knows, closed book: invented facts of each document, anchor texts."""

import json
import pathlib
from collections.abc import Callable, Sequence

from facts import Question

from sleep_jax.baselines.in_context import InContextConfig, replies_in_view
from sleep_jax.baselines.model import Model, base_model
from sleep_jax.baselines.retrieval import bm25, retrieved
from sleep_jax.evals.metrics import contains_answer
from sleep_jax.experiment import Experiment
from sleep_jax.fields import read_json
from sleep_jax.interop.prompts import answer_request
from sleep_jax.phases.consolidate import GATED
from sleep_jax.phases.evaluate import anchor_perplexity, ask, shares_right
from sleep_jax.phases.forgetting import plan_forgetting, with_zeroed_slots
from sleep_jax.phases.run_state import RunState

Ask = Callable[[Sequence[str]], list[str]]
Right = list[dict[str, list[bool]]]  # of each document, by kind of question


def closed_book(experiment: Experiment, variables) -> Ask:
    """Greedy replies of a model without any text."""
    return lambda texts: ask(experiment, variables, [(0, text) for text in texts])


def right(replies_to: Ask, questions: Sequence[Sequence[Question]]) -> Right:
    """Which questions about each document are answered right, in their order.

    Args:
      replies_to: of the model.
      questions: of each document.
    """
    replies, out = iter(replies_to([q.text for asked in questions for q in asked])), []
    for asked in questions:
        out.append({q.kind: [] for q in asked})
        for q in asked:
            out[-1][q.kind].append(bool(contains_answer(next(replies), q.answers)))
    return out


def recall(experiment: Experiment, variables, night: int) -> list[dict[str, float]]:
    """Shares of right replies about each day up to a night, as a run's record has them."""
    shares = []
    for day in experiment.days[: night + 1]:
        asked = [(question.document, question.text) for question in day.questions]
        shares.append(shares_right(day.questions, ask(experiment, variables, asked)))
    return shares


def anchors(experiment: Experiment, variables) -> float:
    """Perplexity of the anchor texts that the gate watches."""
    return anchor_perplexity(experiment, variables, GATED)


def in_view(model: Model, views, questions: Sequence[str], longest: int) -> list[str]:
    """Greedy replies with documents in view, each question with its own."""
    requests = [*map(answer_request, questions)]
    return replies_in_view(model, views, requests, InContextConfig(max_new_tokens=longest))


def rows_with_texts(experiment: Experiment, questions: Sequence[Sequence[Question]]) -> dict:
    """What the base answers right with texts in view: the one that a question is about, that which
    BM25 finds, and all of them."""
    model, documents = base_model(experiment), experiment.documents
    longest = experiment.settings.evaluation.max_new_tokens
    own = [[d] for d, asked in zip(documents, questions) for _ in asked]
    index = bm25([f"{d.title} {d.text}" for d in documents])
    views = {
        "open book": lambda texts: own,
        "retrieval, BM25": lambda texts: retrieved(index, documents, texts),
        "all in view": lambda texts: [documents] * len(texts),
    }
    return {
        name: right(lambda texts, of=of: in_view(model, of(texts), texts, longest), questions)
        for name, of in views.items()
    }


def without_day(experiment: Experiment, slept: RunState, day: int):
    """The collections of a model whose memory of a day is zeroed, as `forget` does it."""
    capacities = [level.slots for level in experiment.settings.memory.levels]
    how = plan_forgetting(slept.record, capacities, [day], may_take_back=False)
    return with_zeroed_slots(slept.current, how.zeroed.values()).variables(experiment.params)


def kept(path: pathlib.Path, measure: Callable, *args):
    """The figures that a file has or, where there is none, `measure(*args)`, which it then has."""
    if not path.exists():
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(measure(*args)))
        draft.replace(path)
    return read_json(path)
