"""The documents of a day as its night learns them: without the sentences that were left out
(`study.screening`)."""

import dataclasses
import functools

from sleep_jax.data.documents import Document
from sleep_jax.experiment import Experiment
from sleep_jax.phases.run_state import RunState
from sleep_jax.programs.abstract import AbstractRun
from sleep_jax.programs.calls import scored
from sleep_jax.programs.program import Program
from sleep_jax.study.screening import log_odds, orders_in, without_sentences


def note_screened(experiment: Experiment, run: RunState, day: int) -> RunState:
    """The run with the sentences that are left out of each document on record of a day, unless
    `study.is_screened` is off."""
    if not experiment.settings.study.is_screened:
        return run
    base = run.current.without_memory().variables(experiment.params)
    score = functools.partial(log_odds, experiment.cfg, base, experiment.tokenizer)
    return run.note_day(day, left_out=orders_in(score, experiment.days[day].documents))


def documents_to_learn(experiment: Experiment, run: RunState, day: int) -> tuple[Document, ...]:
    """The documents of a day without what was left out of them."""
    documents = experiment.days[day].documents
    left_out = run.day(day).get("left_out", [()] * len(documents))
    return tuple(
        dataclasses.replace(document, text=without_sentences(document.text, found))
        for document, found in zip(documents, left_out, strict=True)
    )


def screening(run: AbstractRun) -> list[Program]:
    """The likelihood of every sentence, twice; none where `study.is_screened` is off."""
    return scored(run, "study: screen", run.sizes.screen)
