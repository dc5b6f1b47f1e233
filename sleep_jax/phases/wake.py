"""Wake: a day's documents are read, into the context and, where levels learn by day, into their
wake weights (Eq. 2)."""

import dataclasses

import numpy as np

from sleep_jax.data.batches import bucket, pad
from sleep_jax.evals.recall import negative_log_likelihood
from sleep_jax.experiment import Experiment
from sleep_jax.phases.run_state import PhaseLogger, RunState
from sleep_jax.run_schedule import Step
from sleep_jax.seeding.transaction import MemoryState
from sleep_jax.wake.stream import MAX_STRIDES, read_episode


def wake(experiment: Experiment, run: RunState, logger: PhaseLogger, step: Step) -> RunState:
    """Reads a day's documents, or a part of them, and notes how surprising they were.

    The context itself is not kept: it is wiped with the day, and read again from the documents, in
    a moment, whenever the night needs its teacher (`awake`).
    """
    now, day = run.current, experiment.days[step.day]
    stream = experiment.stream(step.day)[step.start : step.stop]
    facts = {"tokens": len(stream)}
    if now.wake is None:
        # A day that is cut is skimmed at its beginning.
        pages = [experiment.prompts.context(d) for d in day.documents if not step.start]
        facts |= {"documents": len(pages), "surprise": _skim(experiment, run, logger, pages)}
    else:
        now, losses = _learn(experiment, now, logger, stream, step.is_end)
        updates = {f"updates_{name}": int(n) for name, n in now.wake.updates.items()}
        facts |= updates | {"surprise": float(np.mean(losses)) if len(losses) else None}
    return dataclasses.replace(run, current=now, before_sleep=now.replace(wake=None)).note(
        step.label, **facts
    )


def _skim(experiment: Experiment, run: RunState, logger: PhaseLogger, pages) -> float | None:
    """Reads without learning: how surprising each page is, in nats a token."""
    if not pages:
        return None
    variables = run.current.variables(experiment.params)
    tokens, mask = pad(pages, bucket(max(map(len, pages))))
    surprises, read_tokens = [], 0
    with logger.bar(len(pages), "document") as bar:
        for i, page in enumerate(pages):
            rows = slice(i, i + 1)
            nats, scored = negative_log_likelihood(
                experiment.cfg, variables, tokens[rows], mask[rows]
            )
            surprises.append(nats / scored)
            read_tokens += len(page)
            logger.scalars(i, {"tokens": len(page), "nats_per_token": surprises[-1]})
            bar.advance(1, tokens=read_tokens, surprise=float(np.mean(surprises)))
    return float(np.mean(surprises))


def _learn(experiment: Experiment, now: MemoryState, logger: PhaseLogger, stream, is_end: bool):
    """Reads a stream by Eq. 2; returns the self afterwards and the loss of every stride."""
    cfg, wake_config = experiment.cfg, experiment.settings.wake
    piece = MAX_STRIDES * cfg.memory.stride
    starts = range(0, max(len(stream), 1), piece)
    state, losses = now.wake, []
    with logger.bar(len(starts), "piece") as bar:
        for start in starts:
            part = stream[start : start + piece]
            last = start + piece >= len(stream)
            state, nats = read_episode(
                cfg,
                wake_config,
                now.variables(experiment.params),
                state,
                part,
                is_end=is_end and last,
            )
            for value in nats:
                logger.scalars(len(losses), {"nats_per_token": value})
                losses.append(float(value))
            surprise = float(np.mean(losses)) if losses else None
            bar.advance(1, tokens=start + len(part), surprise=surprise)
    return now.with_wake_state(state), losses
