"""Wake: a day's documents are read, into the context and, where levels learn by day, into their
wake weights (Eq. 2)."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from sleep_jax.data.batches import bucket, pad
from sleep_jax.evals.recall import negative_log_likelihood
from sleep_jax.experiment import Experiment
from sleep_jax.phases.phase import Phase
from sleep_jax.phases.run_state import PhaseLogger, RunState
from sleep_jax.programs.abstract import AbstractRun
from sleep_jax.programs.calls import losses_of_texts
from sleep_jax.programs.program import Program, by_shape
from sleep_jax.run_schedule import ScheduledPhase
from sleep_jax.seeding.transaction import MemoryState
from sleep_jax.wake.stream import MAX_STRIDES, padded_strides, read_episode, read_strides


def wake(
    experiment: Experiment, run: RunState, logger: PhaseLogger, scheduled: ScheduledPhase
) -> RunState:
    """Reads a day's documents, or a part of them, and notes how surprising they were.

    The context itself is not kept: it is wiped with the day, and read again from the documents, in
    a moment, whenever the night needs its teacher (`awake`).
    """
    state, day = run.current, experiment.days[scheduled.day]
    stream = experiment.stream(scheduled.day)[scheduled.start : scheduled.stop]
    facts = {"tokens": len(stream)}
    if state.wake is None:
        # A day that is cut is skimmed at its beginning.
        contexts = [experiment.prompts.context(d) for d in day.documents if not scheduled.start]
        facts |= {"documents": len(contexts), "surprise": _skim(experiment, run, logger, contexts)}
    else:
        state, losses = _learn(experiment, state, logger, stream, scheduled.is_end)
        updates = {f"updates_{name}": int(n) for name, n in state.wake.updates.items()}
        facts |= updates | {"surprise": float(np.mean(losses)) if len(losses) else None}
    run = dataclasses.replace(run, current=state, before_sleep=state.replace(wake=None))
    return run.note(scheduled.label, **facts)


def _skim(
    experiment: Experiment,
    run: RunState,
    logger: PhaseLogger,
    contexts: Sequence[Sequence[int]],
) -> float | None:
    """Reads without learning: the mean surprise of the documents, in nats a token."""
    if not contexts:
        return None
    variables = run.current.variables(experiment.params)
    tokens, mask = pad(contexts, _skimmed_width([*map(len, contexts)]))
    surprises, read_tokens = [], 0
    with logger.bar(len(contexts), "document") as bar:
        for i, context in enumerate(contexts):
            rows = slice(i, i + 1)
            nats, scored = negative_log_likelihood(
                experiment.cfg, variables, tokens[rows], mask[rows]
            )
            surprises.append(nats / scored)
            read_tokens += len(context)
            logger.scalars(i, {"tokens": len(context), "nats_per_token": surprises[-1]})
            bar.advance(1, tokens=read_tokens, surprise=float(np.mean(surprises)))
    return float(np.mean(surprises))


def _skimmed_width(contexts: Sequence[int]) -> int:
    """Tokens that each document of a day is padded to, from their lengths."""
    return bucket(max(contexts))


def _learn(experiment: Experiment, state: MemoryState, logger: PhaseLogger, stream, is_end: bool):
    """Reads a stream by Eq. 2; returns the memory state afterwards and the loss of every stride."""
    cfg, wake_config = experiment.cfg, experiment.settings.wake
    piece = MAX_STRIDES * cfg.memory.stride
    starts = range(0, max(len(stream), 1), piece)
    reader, losses = state.wake, []
    with logger.bar(len(starts), "piece") as bar:
        for start in starts:
            part = stream[start : start + piece]
            is_last = start + piece >= len(stream)
            variables = state.variables(experiment.params)
            reader, nats = read_episode(
                cfg, wake_config, variables, reader, part, is_end=is_end and is_last
            )
            for value in nats:
                logger.scalars(len(losses), {"nats_per_token": value})
                losses.append(float(value))
            surprise = float(np.mean(losses)) if losses else None
            bar.advance(1, tokens=start + len(part), surprise=surprise)
    return state.with_wake_state(reader), losses


def programs(run: AbstractRun) -> list[Program]:
    """Skimming, a document a call, or learning by Eq. 2."""
    contexts = run.sizes.contexts
    if "wake" not in run.collections:
        shapes = [(1, _skimmed_width(contexts))] * len(contexts)
        return losses_of_texts(run, "wake: skim", shapes)
    wake_config, stride = run.settings.wake, run.cfg.memory.stride
    piece, out = MAX_STRIDES * stride, []
    pieces = [min(piece, run.sizes.stream - i) for i in range(0, run.sizes.stream, piece)]
    shapes = [(padded_strides(math.ceil(tokens / stride)), stride) for tokens in pieces]
    for name, strides, width, calls in by_shape("wake: learn", shapes):
        args = (run.cfg, wake_config, run.variables, run.collections["wake"])
        args += (run.array("tokens/tokens", strides, 2, width), run.array("tokens/ticks", strides))
        tokens, knobs = strides * width, ("memory.stride", "wake.context")
        learn = Program(name, read_strides, args, calls, tokens, wake_config.context / 2, tokens, 2)
        out.append(dataclasses.replace(learn, trips=strides, knobs=knobs))
    return out


WAKE = Phase("wake", wake, programs)
