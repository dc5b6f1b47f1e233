"""Wake: a day's documents are read, into the context and, where levels learn by day, into their
wake weights (Eq. 2)."""

import dataclasses

import numpy as np

from sleep_jax.data.batches import bucket, pad
from sleep_jax.evals.recall import negative_log_likelihood
from sleep_jax.itinerary import Step
from sleep_jax.phases.night import Desk, Night
from sleep_jax.seeding.transaction import Self
from sleep_jax.sleeper import Sleeper
from sleep_jax.wake.stream import MAX_STRIDES, read_episode


def wake(sleeper: Sleeper, night: Night, desk: Desk, step: Step) -> Night:
    """Reads a day's documents, or a part of them, and notes how surprising they were.

    The context itself is not kept: it is wiped with the day, and read again from the documents, in
    a moment, whenever the night needs its teacher (`awake`).
    """
    now, day = night.now, sleeper.days[step.day]
    stream = sleeper.stream(step.day)[step.start : step.stop]
    facts = {"tokens": len(stream)}
    if now.wake is None:
        # A day that is cut is skimmed at its beginning.
        pages = [sleeper.prompts.context(d) for d in day.documents if not step.start]
        facts |= {"documents": len(pages), "surprise": _skim(sleeper, night, desk, pages)}
    else:
        now, losses = _learn(sleeper, now, desk, stream, step.is_end)
        updates = {f"updates_{name}": int(n) for name, n in now.wake.updates.items()}
        facts |= updates | {"surprise": float(np.mean(losses)) if len(losses) else None}
    evening = now.replace(wake=None)
    return dataclasses.replace(night, now=now, evening=evening).note(step.label, **facts)


def _skim(sleeper: Sleeper, night: Night, desk: Desk, pages) -> float | None:
    """Reads without learning: how surprising each page is, in nats a token."""
    if not pages:
        return None
    variables = night.now.on(sleeper.params)
    tokens, mask = pad(pages, bucket(max(map(len, pages))))
    surprises, read_tokens = [], 0
    with desk.bar(len(pages), "document") as bar:
        for i, page in enumerate(pages):
            rows = slice(i, i + 1)
            nats, scored = negative_log_likelihood(sleeper.cfg, variables, tokens[rows], mask[rows])
            surprises.append(nats / scored)
            read_tokens += len(page)
            desk.scalars(i, {"tokens": len(page), "nats_per_token": surprises[-1]})
            bar.advance(1, tokens=read_tokens, surprise=float(np.mean(surprises)))
    return float(np.mean(surprises))


def _learn(sleeper: Sleeper, now: Self, desk: Desk, stream, is_end: bool):
    """Reads a stream by Eq. 2; returns the self afterwards and the loss of every stride."""
    cfg, wake_config = sleeper.cfg, sleeper.settings.wake
    piece = MAX_STRIDES * cfg.memory.stride
    starts = range(0, max(len(stream), 1), piece)
    state, losses = now.wake, []
    with desk.bar(len(starts), "piece") as bar:
        for start in starts:
            part = stream[start : start + piece]
            last = start + piece >= len(stream)
            state, nats = read_episode(
                cfg, wake_config, now.on(sleeper.params), state, part, is_end=is_end and last
            )
            for value in nats:
                desk.scalars(len(losses), {"nats_per_token": value})
                losses.append(float(value))
            surprise = float(np.mean(losses)) if losses else None
            bar.advance(1, tokens=start + len(part), surprise=surprise)
    return now.having_read(state), losses
