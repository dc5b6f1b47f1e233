"""States that no update of a night changes, computed once: the teachers' hidden states along every
exchange, and the student's residual stream after its trunk.

The trunk, the layers below the first with memory, belongs to the base: no gradient goes through it,
and all models that differ in memory alone share it. So it runs once for each sequence. Every update
and every scoring of rollouts continue from there, and so does a teacher over the student's base
that sees the same prompt and no document. Its output is kept on the host, 4 d bytes a token; that
of teachers 2 d or 4 d, as the operands of the model.
"""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from sleep_jax.models.decoder import run_trunk
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.mixer import SHARED_PREFIX
from sleep_jax.models.sharding import to_host
from sleep_jax.seeding.host_arrays import HostArrays
from sleep_jax.seeding.objective import SeedingBatch, scored_hidden
from sleep_jax.seeding.sequences import (
    BatchShape,
    Exchange,
    HiddenStates,
    Teacher,
    batches,
    split_by_exchange,
    teacher_hidden_by_batch,
)


def states_without_teacher(
    exchanges: Sequence[Exchange], trunks: Sequence[np.ndarray | None]
) -> list[HiddenStates]:
    """States without a teacher's part, for passes that do not use it."""
    empty = [np.zeros((len(e.completion), 0), np.float32) for e in exchanges]
    return [*map(HiddenStates, empty, trunks)]


def trunk_states(
    cfg: DecoderConfig,
    variables,
    exchanges: Sequence[Exchange],
    shape: BatchShape,
    arrays: HostArrays | None = None,
) -> list[np.ndarray | None]:
    """`HiddenStates.trunk` of every exchange.

    Args:
      cfg, variables: the student.
      exchanges: of which the student's prompts and completions are read.
      shape: of the batches that they are run in.
      arrays: holds the states; None: the memory.
    """
    out: list[np.ndarray | None] = [None] * len(exchanges)
    if "trunk" not in cfg.stacks:
        return out
    arrays = arrays or HostArrays()
    for packed, batch in batches(exchanges, states_without_teacher(exchanges, out), shape):
        residual = to_host(run_trunk(cfg, variables, batch.tokens, batch.segment_ids))
        for states, segments, items in zip(residual, to_host(batch.segment_ids), packed):
            for segment, i in enumerate(items, start=1):
                continues = bool(shape.shared_length(exchanges[i]))
                ids = (SHARED_PREFIX, segment) if continues else (SHARED_PREFIX - segment,)
                of_exchange = states[np.isin(segments, ids)]
                out[i] = arrays.empty(of_exchange.shape, np.float32)
                out[i][...] = of_exchange
        arrays.let_go()
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
    arrays: HostArrays | None = None,
    earlier: Sequence[HiddenStates] | None = None,
) -> list[HiddenStates]:
    """The states of every exchange.

    Args:
      cfg, student: the student and its collections.
      teachers: whose hidden states are computed.
      exchanges: the training data.
      shape: of the batches.
      width: tokens that a teacher's rows are padded to; None: buckets.
      trunks: `trunk_states` of the exchanges; None: computed here.
      arrays: holds the states; None: the memory.
      earlier: states of these exchanges, whose teachers' part is overwritten; None: new ones.

    Raises:
      ValueError: a teacher has another vocabulary.
    """
    if len({t.cfg.vocab for t in teachers}) > 1:
        sizes = ", ".join(str(t.cfg.vocab) for t in teachers)
        raise ValueError(f"teachers with vocabularies of {sizes} tokens; they must share one")
    arrays = arrays or HostArrays()
    states = earlier or _empty_states(cfg, student, teachers, exchanges, shape, trunks, arrays)
    is_shared = "trunk" in cfg.stacks and all(e.is_closed_book for e in exchanges)

    def hidden(teacher: Teacher, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        chosen = [exchanges[i] for i in indices]
        has_base = teacher.cfg == cfg and teacher.variables["params"] is student["params"]
        if is_shared and has_base:
            trunks_of_chosen = [states[i].trunk for i in indices]
            return _states_from_trunk(cfg, teacher.variables, chosen, trunks_of_chosen, shape)
        model = teacher.cfg, teacher.variables, teacher.context
        return teacher_hidden_by_batch(*model, chosen, width=width)

    first = 0
    for teacher in teachers:
        columns = slice(first, first := first + teacher.cfg.width)
        for part_teacher, indices in _parts(teacher, exchanges):
            for n, of_exchange in hidden(part_teacher, indices):
                states[indices[n]].teacher[:, columns] = of_exchange
                arrays.let_go()
    return states


def _empty_states(
    cfg, student, teachers, exchanges, shape, trunks, arrays: HostArrays
) -> list[HiddenStates]:
    """States whose teachers' part is not computed yet; arguments as of `precompute`."""
    if trunks is None:
        trunks = trunk_states(cfg, student, exchanges, shape, arrays)
    width = sum(teacher.cfg.width for teacher in teachers)
    return [
        HiddenStates(arrays.empty((len(e.completion), width), cfg.dtype), trunk)
        for e, trunk in zip(exchanges, trunks)
    ]


def _parts(teacher: Teacher, exchanges: Sequence[Exchange]) -> list[tuple[Teacher, list[int]]]:
    """Who teaches which exchanges, by their indices: what was known before the day, and rehearsals,
    may have teachers of their own."""
    parts: dict[int, tuple[Teacher, list[int]]] = {}
    for i, exchange in enumerate(exchanges):
        by = teacher.of(exchange)
        parts.setdefault(id(by.variables), (by, []))[1].append(i)
    return [*parts.values()]


def _states_from_trunk(
    cfg, variables, exchanges, trunks, shape
) -> Iterator[tuple[int, np.ndarray]]:
    """A teacher's hidden states along each completion, computed from the trunk's output; as
    `teacher_hidden_by_batch` yields them."""
    for packed, batch in batches(exchanges, states_without_teacher(exchanges, trunks), shape):
        hidden = to_host(hidden_from_trunk(cfg, variables, batch))
        yield from split_by_exchange(exchanges, packed, hidden.reshape(*batch.mask.shape, -1))


@jax.jit(static_argnames=("cfg",))
def hidden_from_trunk(cfg: DecoderConfig, variables, batch: SeedingBatch):
    """`scored_hidden` of a batch that has the trunk's output."""
    return scored_hidden(cfg, variables, batch)
