"""tau: how well models answer. Every scorer is a name and a function of models and items.

    scorer            what counts                                          of
    likelihood        log-likelihood of the answer, in nats a token        the answer
    exact_match       its words are the answer's                           a reply
    f1                words that it shares with the answer                 a reply
    squad_...         the same two by SQuAD's normalisation, of English    a reply
    contains          an answer occurs in it                               a reply
    integer           its last integer is the answer's                     a reply
    grid              its grid equals the answer's in every cell (ARC)     a reply
    judge             a model says that it is right (SEAL's rubric)        a reply
    choice            the likeliest option is an answer                    the options
    choice_per_token  the option likeliest by the token is an answer       the options

Replies are greedy and, like likelihoods, of the question alone: no document is in view.
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
_WORDS = ("exact_match", "f1", "squad_exact_match", "squad_f1", "contains")
FREE_TEXT_SCORERS = ("likelihood", *_WORDS, "judge")  # ask for no special answers


@dataclasses.dataclass(frozen=True)
class Scores:
    """What one model earned.

    Attributes:
      points: of each item, float32 [items]; sums over its parts.
      parts: what those are sums over, [items]: tokens of a likelihood, else 1.
    """

    points: np.ndarray
    parts: np.ndarray

    @property
    def mean(self) -> float:
        """tau."""
        return float(self.points.sum(dtype=np.float64) / self.parts.sum())


class Scorer(Protocol):
    """Scores models, each on items of its own: [models] of `Scores`."""

    def __call__(self, models: AdaptedModels, items: Sequence[Sequence[Item]]) -> list[Scores]: ...


ReplyGrader = Callable[
    [Sequence[str], Sequence[Item]], np.ndarray
]  # (replies, items) -> float32 [n]


def make_scorer(name: str, judge: Callable[[], ReplyGrader] | None = None) -> Scorer:
    """The scorer of a name.

    Args:
      name: one of `SCORERS`.
      judge: makes the marker of replies of `judge`; called for that name alone.

    Raises:
      ValueError: there is no such scorer, or it lacks its judge.
    """
    if name == "likelihood":
        return score_by_likelihood
    if name in _BY_OPTIONS:
        return option_scorer(per_token=name == "choice_per_token")
    if name == "judge":
        if judge is None:
            raise ValueError(
                "dreaming.scorer='judge' needs a judge; give one, scorer('judge', judge), or "
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
    """Log-likelihood of each item's first answer, its end of turn included."""
    prompts = Prompts(models.tokenizer)
    found = models.log_likelihoods(
        [
            [(prompts.without_context(q.question), prompts.reply(q.answers[0])) for q in own]
            for own in items
        ]
    )
    return [Scores(own[:, 0], own[:, 1]) for own in found]


def reply_scorer(marker: ReplyGrader) -> Scorer:
    """The scorer that marks replies; the marker is given those of all models at once."""

    def score(models: AdaptedModels, items: Sequence[Sequence[Item]]) -> list[Scores]:
        prompts = Prompts(models.tokenizer)
        replies = models.replies(
            [[prompts.without_context(q.question) for q in own] for own in items]
        )
        marks = marker([r for own in replies for r in own], [q for own in items for q in own])
        ends = np.cumsum([len(own) for own in items])[:-1]
        return [Scores(own, np.ones_like(own)) for own in np.split(marks, ends)]

    return score


def option_scorer(per_token: bool) -> Scorer:
    """The scorer that has the likeliest option chosen, of all options as replies to the question.

    Args:
      per_token: likelihoods are divided by their tokens, so that a long option is not ruled out.
    """

    def score(models: AdaptedModels, items: Sequence[Sequence[Item]]) -> list[Scores]:
        prompts = Prompts(models.tokenizer)
        for q in (q for own in items for q in own):
            if not {*q.options} & {*q.answers}:
                raise ValueError(
                    f"{q.question!r} has options {q.options}, none of them its answer "
                    f"{q.answers[0]!r}; choose another dreaming.scorer or give such options"
                )
        found = models.log_likelihoods(
            [
                [
                    (prompts.without_context(q.question), prompts.reply(o))
                    for q in own
                    for o in q.options
                ]
                for own in items
            ]
        )
        return [_chosen(own, likelihoods, per_token) for own, likelihoods in zip(items, found)]

    return score


def _chosen(items: Sequence[Item], likelihoods: np.ndarray, per_token: bool) -> Scores:
    nats, tokens = likelihoods.T
    ends = np.cumsum([len(q.options) for q in items])[:-1]
    options = np.split(nats / tokens if per_token else nats, ends)
    right = [  # NaN, as a model that diverged gives, is no choice
        q.options[int(np.argmax(of))] in q.answers if np.isfinite(of).all() else np.nan
        for q, of in zip(items, options)
    ]
    return Scores(np.array(right, np.float32), np.ones(len(items), np.float32))
