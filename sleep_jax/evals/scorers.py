"""tau: how well models answer. A scorer has a name and is a function of models and items.

    scorer            score                                                of
    likelihood        log-likelihood of the answer, in nats a token        the answer
    exact_match       1 if it has exactly the words of an answer           a reply
    f1                bag-of-words F1 with an answer                       a reply
    squad_...         the same two by SQuAD's normalisation, for English   a reply
    contains          1 if an answer occurs in it                          a reply
    integer           1 if its last integer is the answer's                a reply
    grid              1 if its grid equals the answer's (ARC)              a reply
    judge             1 if a model judges it right (SEAL's rubric)         a reply
    choice            1 if the likeliest option is an answer               the options
    choice_per_token  the same by mean log-likelihood a token              the options

Questions are asked closed book: no document is in view. Replies are greedy.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.evals.items import Item
from sleep_jax.evals.metrics import (
    contains_answer,
    exact_match,
    f1,
    is_grid_right,
    is_integer_right,
    squad_exact_match,
    squad_f1,
)
from sleep_jax.interop.prompts import Prompts

_BY_REPLY = {
    "exact_match": exact_match,
    "f1": f1,
    "squad_exact_match": squad_exact_match,
    "squad_f1": squad_f1,
    "contains": contains_answer,
    "integer": is_integer_right,
    "grid": is_grid_right,
}
_BY_OPTIONS = ("choice", "choice_per_token")
SCORERS = ("likelihood", *_BY_REPLY, "judge", *_BY_OPTIONS)
_BY_WORDS = ("exact_match", "f1", "squad_exact_match", "squad_f1", "contains")
FREE_TEXT_SCORERS = ("likelihood", *_BY_WORDS, "judge")  # for answers of any form


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of one model.

    Attributes:
      sums: float32 [items], the score of each item summed over its `counts`.
      counts: [items], what it is a sum over: the tokens of a likelihood, else 1.
    """

    sums: np.ndarray
    counts: np.ndarray

    @property
    def mean(self) -> float:
        """tau: the mean score."""
        return float(self.sums.sum(dtype=np.float64) / self.counts.sum())


class Scorer(Protocol):
    """Scores every model on its own items: a list [models] of `Scores`."""

    def __call__(self, models: AdaptedModels, items: Sequence[Sequence[Item]]) -> list[Scores]: ...


# (replies [n], items [n]) -> grades float32 [n]
ReplyGrader = Callable[[Sequence[str], Sequence[Item]], np.ndarray]


def make_scorer(name: str, judge: Callable[[], ReplyGrader] | None = None) -> Scorer:
    """The scorer with a name.

    Args:
      name: one of `SCORERS`.
      judge: makes the grader of the scorer `judge`; not called for others.

    Raises:
      ValueError: there is no such scorer, or `judge` is missing.
    """
    if name == "likelihood":
        return score_by_likelihood
    if name in _BY_OPTIONS:
        return option_scorer(per_token=name == "choice_per_token")
    if name == "judge":
        if judge is None:
            raise ValueError(
                "dreaming.scorer='judge' needs a judge; call make_scorer('judge', judge), or "
                f"choose from {', '.join(other for other in SCORERS if other != name)}"
            )
        return reply_scorer(judge())
    if name in _BY_REPLY:
        metric = _BY_REPLY[name]
        return reply_scorer(
            lambda replies, items: np.array(
                [metric(reply, item.answers) for reply, item in zip(replies, items)], np.float32
            )
        )
    raise ValueError(f"dreaming.scorer={name!r}; choose from {', '.join(SCORERS)}")


def score_by_likelihood(models: AdaptedModels, items: Sequence[Sequence[Item]]) -> list[Scores]:
    """Log-likelihood of the first answer of each item, end of turn included, in nats."""
    prompts = Prompts(models.tokenizer)
    likelihoods = models.log_likelihoods(
        [
            [(prompts.without_context(q.question), prompts.reply(q.answers[0])) for q in questions]
            for questions in items
        ]
    )
    return [Scores(nats_and_tokens[:, 0], nats_and_tokens[:, 1]) for nats_and_tokens in likelihoods]


def reply_scorer(grader: ReplyGrader) -> Scorer:
    """A scorer of greedy replies.

    Args:
      grader: grades the replies of all models in one call.
    """

    def score(models: AdaptedModels, items: Sequence[Sequence[Item]]) -> list[Scores]:
        prompts = Prompts(models.tokenizer)
        replies = models.replies(
            [[prompts.without_context(q.question) for q in questions] for questions in items]
        )
        grades = grader(
            [reply for model_replies in replies for reply in model_replies],
            [q for questions in items for q in questions],
        )
        ends = np.cumsum([len(questions) for questions in items])[:-1]
        return [Scores(x, np.ones_like(x)) for x in np.split(grades, ends)]

    return score


def option_scorer(per_token: bool) -> Scorer:
    """A scorer of multiple choice: the likeliest option, as a reply to the question, is chosen.

    Args:
      per_token: compare log-likelihoods a token, which do not favour short options.

    Raises:
      ValueError: (when called) an item has no option that is an accepted answer.
    """

    def score(models: AdaptedModels, items: Sequence[Sequence[Item]]) -> list[Scores]:
        prompts = Prompts(models.tokenizer)
        for q in (q for questions in items for q in questions):
            if not {*q.options} & {*q.answers}:
                raise ValueError(
                    f"{q.question!r} has options {q.options}, none of them its answer "
                    f"{q.answers[0]!r}; choose another dreaming.scorer or give such options"
                )
        likelihoods = models.log_likelihoods(
            [
                [
                    (prompts.without_context(q.question), prompts.reply(option))
                    for q in questions
                    for option in q.options
                ]
                for questions in items
            ]
        )
        return [_score_choices(x, y, per_token) for x, y in zip(items, likelihoods)]

    return score


def _score_choices(items: Sequence[Item], likelihoods: np.ndarray, per_token: bool) -> Scores:
    """From log-likelihoods [options of all items, 2] (`AdaptedModels.log_likelihoods`)."""
    nats, tokens = likelihoods.T
    ends = np.cumsum([len(q.options) for q in items])[:-1]
    option_scores = np.split(nats / tokens if per_token else nats, ends)
    is_right = [  # NaN where the model diverged
        q.options[int(np.argmax(scores))] in q.answers if np.isfinite(scores).all() else np.nan
        for q, scores in zip(items, option_scores)
    ]
    return Scores(np.array(is_right, np.float32), np.ones(len(items), np.float32))
