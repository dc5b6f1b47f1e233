"""States that no update of a night changes, computed once: the teachers' hidden states along every
exchange, and the student's residual stream after its trunk.

The trunk, the layers below the first with memory, belongs to the base: no gradient goes through it,
and all models that differ in memory alone share it. So it runs once for each sequence. Every update
and every scoring of rollouts continue from there, and so does a teacher over the student's base
that sees the same prompt and no document. Its output is kept on the host, 4 d bytes a token.
"""

from collections.abc import Sequence

import jax
import numpy as np

from sleep_jax.models.decoder import run_trunk
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.mixer import SHARED_PREFIX
from sleep_jax.models.sharding import to_host
from sleep_jax.seeding.objective import SeedingBatch, scored_hidden
from sleep_jax.seeding.sequences import (
    BatchShape,
    Exchange,
    HiddenStates,
    Teacher,
    batches,
    split_by_exchange,
    teacher_hidden,
)


def states_without_teacher(
    exchanges: Sequence[Exchange], trunks: Sequence[np.ndarray | None]
) -> list[HiddenStates]:
    """States without a teacher's part, for passes that do not use it."""
    return [
        HiddenStates(np.zeros((len(e.completion), 0)), trunk) for e, trunk in zip(exchanges, trunks)
    ]


def trunk_states(
    cfg: DecoderConfig, variables, exchanges: Sequence[Exchange], shape: BatchShape
) -> list[np.ndarray | None]:
    """`HiddenStates.trunk` of every exchange.

    Args:
      cfg, variables: the student.
      exchanges: of which the student's prompts and completions are read.
      shape: of the batches that they are run in.
    """
    out: list[np.ndarray | None] = [None] * len(exchanges)
    if "trunk" not in cfg.stacks:
        return out
    for packed, batch in batches(exchanges, states_without_teacher(exchanges, out), shape):
        residual = to_host(run_trunk(cfg, variables, batch.tokens, batch.segment_ids))
        for states, segments, items in zip(residual, to_host(batch.segment_ids), packed):
            for segment, i in enumerate(items, start=1):
                continues = bool(shape.shared_length(exchanges[i]))
                ids = (SHARED_PREFIX, segment) if continues else (SHARED_PREFIX - segment,)
                out[i] = states[np.isin(segments, ids)]
    return out


def precompute(
    cfg: DecoderConfig,
    student,
    teachers: Sequence[Teacher],
    exchanges: Sequence[Exchange],
    shape: BatchShape,
    *,
    width: int | None = None,
    trunks: Sequence[np.ndarray | None] | None = None,
) -> list[HiddenStates]:
    """The states of every exchange.

    Args:
      cfg, student: the student and its collections.
      teachers: whose hidden states are computed.
      exchanges: the training data.
      shape: of the batches.
      width: tokens that a teacher's rows are padded to; None: buckets.
      trunks: `trunk_states` of the exchanges; None: computed here.

    Raises:
      ValueError: a teacher has another vocabulary.
    """
    if len({t.cfg.vocab for t in teachers}) > 1:
        sizes = ", ".join(str(t.cfg.vocab) for t in teachers)
        raise ValueError(f"teachers with vocabularies of {sizes} tokens; they must share one")
    trunks = trunk_states(cfg, student, exchanges, shape) if trunks is None else trunks
    is_shared = "trunk" in cfg.stacks and all(e.is_closed_book for e in exchanges)

    def hidden(teacher: Teacher, indices: Sequence[int]) -> list[np.ndarray]:
        chosen = [exchanges[i] for i in indices]
        has_base = teacher.cfg == cfg and teacher.variables["params"] is student["params"]
        if is_shared and has_base:
            chosen_trunks = [trunks[i] for i in indices]
            return _states_from_trunk(cfg, teacher.variables, chosen, chosen_trunks, shape)
        return teacher_hidden(teacher.cfg, teacher.variables, teacher.context, chosen, width=width)

    by_teacher = [[None] * len(exchanges) for _ in teachers]
    for teacher, states in zip(teachers, by_teacher):
        for part_teacher, indices in _parts(teacher, exchanges):
            for i, state in zip(indices, hidden(part_teacher, indices)):
                states[i] = state
    return [
        HiddenStates(np.concatenate(parts, axis=-1), trunk)
        for *parts, trunk in zip(*by_teacher, trunks)
    ]


def _parts(teacher: Teacher, exchanges: Sequence[Exchange]) -> list[tuple[Teacher, list[int]]]:
    """Who teaches which exchanges, by their indices: what was known before the day, and rehearsals,
    may have teachers of their own."""
    parts: dict[int, tuple[Teacher, list[int]]] = {}
    for i, exchange in enumerate(exchanges):
        by = teacher.of(exchange)
        parts.setdefault(id(by.variables), (by, []))[1].append(i)
    return [*parts.values()]


def _states_from_trunk(cfg, variables, exchanges, trunks, shape) -> list[np.ndarray]:
    """A teacher's hidden states along each completion, computed from the trunk's output."""
    out: list[np.ndarray] = [None] * len(exchanges)
    for packed, batch in batches(exchanges, states_without_teacher(exchanges, trunks), shape):
        hidden = to_host(hidden_from_trunk(cfg, variables, batch))
        for i, states in split_by_exchange(
            exchanges, packed, hidden.reshape(*batch.mask.shape, -1)
        ):
            out[i] = states
    return out


@jax.jit(static_argnames=("cfg",))
def hidden_from_trunk(cfg: DecoderConfig, variables, batch: SeedingBatch):
    """`scored_hidden` of a batch that has the trunk's output."""
    return scored_hidden(cfg, variables, batch)
