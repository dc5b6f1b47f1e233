"""What a phase has sampled so far, kept batch by batch: a phase that was stopped goes on with the
next batch and ends with the same bits."""

import base64
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sleep_jax.sampling.generate import Completion, generate
from sleep_jax.services import MidPhaseCheckpoint

# A checkpoint holds an array at least.
STATE = {"batches": np.zeros((), np.int32)}
TOKENS, LOG_PROBS = np.dtype("<i4"), np.dtype("<f4")


class Drafts:
    """Samples as `generate` does; what is drawn goes into the mid-phase checkpoint of the phase.

    Calls are known by their order, which is the same whenever the phase is begun.

    Args:
      mid_phase: of the phase; None: nothing is kept.
      on_batch: called after every batch, with the number of batches so far.
    """

    def __init__(
        self, mid_phase: MidPhaseCheckpoint | None, on_batch: Callable[[int], None] = lambda n: None
    ):
        self._mid_phase, self._on_batch = mid_phase, on_batch
        self._drawn: list[list[list[Completion]]] = []  # by call
        self._calls = self._batches = 0
        if mid_phase is not None and (kept := mid_phase.find(STATE)):
            self._batches, _, facts = kept
            self._drawn = [_completions(record) for record in facts["drawn"]]

    def __call__(self, *args, **more) -> list[list[Completion]]:
        """`generate`; what earlier attempts have drawn of it is not drawn again."""
        if self._calls == len(self._drawn):
            self._drawn.append([])
        drawn = self._drawn[self._calls]
        self._calls += 1
        return generate(*args, **more, drawn=drawn, on_batch=self._keep)

    def _keep(self) -> None:
        self._batches += 1
        self._on_batch(self._batches)
        if self._mid_phase is not None and self._mid_phase.is_due(self._batches):
            state = {"batches": np.asarray(self._batches, np.int32)}
            facts = {"drawn": [*map(_record, self._drawn)]}
            self._mid_phase.keep(self._batches, state, facts, "batches")


def _record(groups: Sequence[Sequence[Completion]]) -> dict[str, Any]:
    """Completions as JSON; numbers are packed, for there may be millions."""
    flat = [completion for group in groups for completion in group]
    return {
        "groups": [len(group) for group in groups],
        "lengths": [len(completion.tokens) for completion in flat],
        "finished": [completion.finished for completion in flat],
        "tokens": _packed([x.tokens for x in flat], TOKENS),
        "log_probs": _packed([x.log_probs for x in flat], LOG_PROBS),
    }


def _completions(record: dict[str, Any]) -> list[list[Completion]]:
    """What `_record` has made JSON-able."""
    ends = np.cumsum(record["lengths"], dtype=int)[:-1]
    tokens, log_probs = (
        np.split(np.frombuffer(base64.b64decode(record[name]), kind), ends)
        for name, kind in (("tokens", TOKENS), ("log_probs", LOG_PROBS))
    )
    flat = iter(
        [
            Completion(tuple(row.tolist()), scores.astype(np.float32), is_finished)
            for row, scores, is_finished in zip(tokens, log_probs, record["finished"])
        ]
    )
    return [[next(flat) for _ in range(size)] for size in record["groups"]]


def _packed(rows: Sequence[Sequence[float]], kind: np.dtype) -> str:
    numbers = np.concatenate([np.asarray(row, kind) for row in rows] or [np.zeros(0, kind)])
    return base64.b64encode(numbers.tobytes()).decode("ascii")
