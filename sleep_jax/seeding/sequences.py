"""Sequences of a night: a prompt of the student, a prompt of its teacher, which has the document in
context, and a completion of both, along which the divergence compares them token by token.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from sleep_jax.data.batches import bucket, pack, pad
from sleep_jax.models.cache import row_bytes, take_rows
from sleep_jax.models.decoder import lm_head
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.mixer import SHARED_PREFIX
from sleep_jax.models.sharding import place, row_shards, spread_evenly, to_host
from sleep_jax.sampling.sampler import prefill
from sleep_jax.seeding.objective import SeedingBatch
from sleep_jax.settings import Settings, setting

REHEARSED = "rehearse"  # the kind of replies to general prompts
MAX_CONTEXT = 2**32  # bytes of a teacher's contexts on a shard, one a row


@dataclasses.dataclass(frozen=True)
class Exchange:
    """A prompt of the student and one of the teacher, and a completion of both.

    Attributes:
      document: index of the document in the teacher's context; None: its context is empty.
      student: prompt tokens of the student.
      teacher: prompt tokens of the teacher, after its context.
      completion: tokens, end of turn included.
      kind: what it was written for, e.g. `recite` or `answer`.
      on_policy: the student wrote the completion.
      advantage: of the completion, or float32 [completion] of its tokens.
      log_probs: of the tokens when they were sampled, float32 [completion].
      old_log_probs: of the tokens by the scorer when their round began, float32 [completion]; what
        ratios start from.
      reference_log_probs: of the tokens under the student before the night, float32 [completion].
      old_values, returns: of the tokens, for a value head, float32 [completion].
      rewarded: the policy gradient learns from it, if it is on-policy.
      supervised: the completion is also learnt by cross-entropy.
    """

    document: int | None
    student: tuple[int, ...]
    teacher: tuple[int, ...]
    completion: tuple[int, ...]
    kind: str
    on_policy: bool = False
    advantage: float | np.ndarray = 0.0
    log_probs: np.ndarray | None = None
    old_log_probs: np.ndarray | None = None
    reference_log_probs: np.ndarray | None = None
    old_values: np.ndarray | None = None
    returns: np.ndarray | None = None
    rewarded: bool = True
    supervised: bool = False

    @property
    def is_closed_book(self) -> bool:
        """Teacher and student have the same prompt, and no document is in context."""
        return self.document is None and self.teacher == self.student

    @property
    def is_known(self) -> bool:
        """The model knew it before the day; all else is new."""
        return self.kind in (REHEARSED, "earlier")

    @property
    def is_imitable(self) -> bool:
        """The student can imitate it: a reply about a document that can be cut in two."""
        return self.kind in ("complete", "quote", "answer") and len(self.completion) > 1


class HiddenStates(NamedTuple):
    """Hidden states along an exchange that no update of the slot changes.

    Attributes:
      teacher: [completion, sum of d] in the dtype of the model, whose head rounds them to it, those
        of all teachers, concatenated; row i predicts token i.
      trunk: float32 [tokens, d], the student's residual stream after the layers that carry no
        memory, at every token of its prompt and completion but the last; None: not computed, or
        all layers carry memory.
    """

    teacher: np.ndarray
    trunk: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A teacher: a memory over the student's base, or another checkpoint.

    Attributes:
      cfg, variables: the model, with stacked (scanned) layers.
      context: a KV cache with a row for each document it has read and a last, empty one.
      weight: of its divergence.
      known_variables: the collections that teach what was known before the day
        (`Exchange.is_known`), of the same config over the same base; None: `variables`.
      rehearsal_variables: those that teach rehearsals; None: as what was known.
    """

    cfg: DecoderConfig
    variables: Any
    context: Any
    weight: float = 1.0
    known_variables: Any = None
    rehearsal_variables: Any = None

    @property
    def of_known(self) -> "Teacher":
        """The teacher of what was known before the day."""
        return self._closed_book(self.known_variables)

    @property
    def of_rehearsals(self) -> "Teacher":
        """The teacher of replies to general prompts."""
        return self._closed_book(self.rehearsal_variables or self.known_variables)

    def of(self, exchange: Exchange) -> "Teacher":
        """The teacher of an exchange."""
        if exchange.kind == REHEARSED:
            return self.of_rehearsals
        return self.of_known if exchange.is_known else self

    def _closed_book(self, variables) -> "Teacher":
        if variables is None:
            return self
        # The row of its context that it reads is the empty one, which is the same for all weights.
        return dataclasses.replace(
            self, variables=variables, known_variables=None, rehearsal_variables=None
        )


def teacher_heads(teachers: Sequence[Teacher]):
    """The LM heads of several teachers; None for a single one, which has the student's."""
    if len(teachers) == 1:
        return None
    return tuple(lm_head(t.cfg, t.variables["params"]) for t in teachers)


def teacher_length(exchange: Exchange) -> int:
    """Tokens that a teacher reads of an exchange: all but the last of its completion."""
    return len(exchange.teacher + exchange.completion[:-1])


def teacher_batches(
    lengths: Sequence[int],
    width: int | None = None,
    budget: int = 2048,
    *,
    context_bytes: int = 0,
) -> Iterator[tuple[list[int], int, int]]:
    """How `teacher_hidden` batches sequences, the longest first.

    Args:
      lengths: of the sequences, in tokens.
      width, budget: as for `teacher_hidden`.
      context_bytes: of the context of a row; a shard has MAX_CONTEXT at most, where that is enough
        for one row.

    Yields:
      (indices, rows, columns): the sequences of a batch and its shape; rows without a sequence are
      filled up. The longest sequence left decides the width; batches of one width are one program.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    while order:
        columns = width or bucket(lengths[order[-1]])
        most = min(budget // columns, max(1, MAX_CONTEXT // max(1, context_bytes)))
        max_rows = most * row_shards()
        rows = spread_evenly(max(1, min(max_rows, bucket(len(lengths), 4))))
        chosen, order = order[-rows:], order[:-rows]
        yield chosen, rows, columns


def teacher_hidden(
    cfg: DecoderConfig,
    variables,
    cache,
    exchanges: Sequence[Exchange],
    *,
    width: int | None = None,
    budget: int = 2048,
) -> list[np.ndarray]:
    """A teacher's hidden states along each completion, [completion, d] each in the dtype of the
    model; row i predicts token i. Arguments as of `teacher_hidden_by_batch`."""
    out: list[np.ndarray] = [None] * len(exchanges)
    states = teacher_hidden_by_batch(cfg, variables, cache, exchanges, width=width, budget=budget)
    for i, hidden in states:
        out[i] = hidden.astype(cfg.dtype)  # a copy: the batch is larger
    return out


def teacher_hidden_by_batch(
    cfg: DecoderConfig,
    variables,
    cache,
    exchanges: Sequence[Exchange],
    *,
    width: int | None = None,
    budget: int = 2048,
) -> Iterator[tuple[int, np.ndarray]]:
    """A teacher's hidden states along each completion, a batch of them at a time.

    Args:
      cfg, variables, cache: the teacher and its context; see `Teacher`.
      exchanges: what the teacher reads, each after its document.
      width: tokens that all rows are padded to; None: to buckets.
      budget: tokens of a batch on every shard of a mesh, padding included.

    Yields:
      (index of an exchange, float32 [completion, d]): row i predicts token i. Views of a batch.
    """
    lengths = [teacher_length(e) for e in exchanges]
    context_bytes = row_bytes(cfg, cache)
    batches = teacher_batches(lengths, width, budget, context_bytes=context_bytes)
    for chosen, rows, columns in batches:
        batch = [exchanges[i] for i in chosen]
        batch += [batch[0]] * (rows - len(batch))
        tokens, mask = pad([e.teacher + e.completion[:-1] for e in batch], columns)
        context = take_rows(cfg, cache, [-1 if e.document is None else e.document for e in batch])
        hidden = to_host(prefill(cfg, variables, tokens, mask, context)[1])
        for row, i in enumerate(chosen):
            first = len(exchanges[i].teacher) - 1
            yield i, hidden[row, first : first + len(exchanges[i].completion)]


# Fields of a batch with one entry a target token.
TARGET_FIELDS = {
    **dict.fromkeys(("target_positions", "targets", "sequence_ids"), np.int32),
    **dict.fromkeys(("mask", "on_policy", "supervised", "rewarded"), bool),
    **dict.fromkeys(("advantages", "old_log_probs"), np.float32),
    **dict.fromkeys(("sampler_log_probs", "reference_log_probs"), np.float32),
    **dict.fromkeys(("old_values", "returns"), np.float32),
}


@dataclasses.dataclass(frozen=True)
class BatchShape(Settings, section="seeding"):
    """The one static shape of a seeding batch.

    Attributes:
      shared_prefix: tokens that prompts begin with, e.g. a system message: a row holds them once,
        and every sequence that begins with them attends to that copy.
    """

    batch_size: int = setting(4, "packed rows of an update", least=1)
    max_length: int = setting(448, "tokens of a row", least=1)
    max_target_length: int = setting(320, "tokens of a row that are scored", least=1)
    shared_prefix: tuple[int, ...] = ()

    def shared_length(self, exchange: Exchange) -> int:
        """Tokens of the student's prompt that are the shared prefix: its length, or 0 where the
        prompt begins otherwise or is no longer than it."""
        n = len(self.shared_prefix)
        return n if n < len(exchange.student) and exchange.student[:n] == self.shared_prefix else 0


def pack_exchanges(exchanges: Sequence[Exchange], shape: BatchShape) -> list[list[int]]:
    """Packs exchanges into rows: lists of their indices, [rows][exchanges of a row].

    Raises:
      ValueError: an exchange is longer than a row.
    """
    sizes = [
        (len(e.student + e.completion[:-1]) - shape.shared_length(e), len(e.completion))
        for e in exchanges
    ]
    return pack(sizes, (shape.max_length - len(shape.shared_prefix), shape.max_target_length))


def make_batch(
    exchanges: Sequence[Exchange],
    states: Sequence[HiddenStates],
    packed: Sequence[Sequence[int]],
    shape: BatchShape,
) -> SeedingBatch:
    """A batch of packed rows, as the student sees them.

    Args:
      exchanges: what to learn from.
      states: of each exchange; the trunks of all of them are computed, or of none.
      packed: at most `shape.batch_size` rows of `pack_exchanges`; missing ones are padding.
      shape: of the batch.
    """
    by_token = shape.batch_size, shape.max_length
    by_target = shape.batch_size, shape.max_target_length
    tokens, segments = np.zeros(by_token, np.int32), np.zeros(by_token, np.int32)
    fields = {name: np.zeros(by_target, dtype) for name, dtype in TARGET_FIELDS.items()}
    teacher = states[0].teacher
    fields["teacher"] = np.zeros((*by_target, teacher.shape[-1]), teacher.dtype)
    trunk = None
    if states[0].trunk is not None:
        trunk = np.zeros((*by_token, states[0].trunk.shape[-1]), np.float32)
    for row, items in enumerate(packed):
        t, s = len(shape.shared_prefix), 0  # the next free token and target of the row
        tokens[row, :t], segments[row, :t] = shape.shared_prefix, SHARED_PREFIX
        for segment, i in enumerate(items, start=1):
            e = exchanges[i]
            shared = shape.shared_length(e)
            prompt = e.student[shared:]
            sequence = prompt + e.completion[:-1]
            n, c = len(sequence), len(e.completion)
            tokens[row, t : t + n] = sequence
            segments[row, t : t + n] = segment if shared else SHARED_PREFIX - segment
            if trunk is not None:
                trunk[row, :shared], trunk[row, t : t + n] = np.split(states[i].trunk, [shared])
            values = _target_values(e) | {"teacher": states[i].teacher, "sequence_ids": i}
            values["target_positions"] = t + len(prompt) - 1 + np.arange(c)
            for name, value in values.items():
                if value is not None:
                    fields[name][row, s : s + c] = value
            t, s = t + n, s + c
    batch = SeedingBatch(tokens=tokens, segment_ids=segments, trunk=trunk, **fields)
    return place(batch, "batch")


def batches(
    exchanges: Sequence[Exchange], states: Sequence[HiddenStates], shape: BatchShape
) -> Iterator[tuple[list[list[int]], SeedingBatch]]:
    """All exchanges, a batch at a time.

    Args:
      exchanges, states, shape: as for `make_batch`.

    Yields:
      (packed, batch): the rows of a batch as for `make_batch`, and the batch.
    """
    rows = pack_exchanges(exchanges, shape)
    for start in range(0, len(rows), shape.batch_size):
        packed = rows[start : start + shape.batch_size]
        yield packed, make_batch(exchanges, states, packed, shape)


def split_by_exchange(
    exchanges: Sequence[Exchange], packed: Sequence[Sequence[int]], values
) -> Iterator[tuple[int, np.ndarray]]:
    """Takes values of a batch's target tokens apart.

    Args:
      exchanges, packed: that the batch was made of.
      values: [rows, targets, ...].

    Yields:
      (index of an exchange, [completion, ...] of its tokens).
    """
    for row, items in zip(values, packed):
        ends = np.cumsum([len(exchanges[i].completion) for i in items])
        yield from zip(items, np.split(row, ends))


def _target_values(e: Exchange) -> dict:
    """Fields of a batch at an exchange's target tokens: [completion], or one value for all; None
    leaves the zeros."""
    return {
        "mask": True,
        "targets": e.completion,
        "on_policy": e.on_policy,
        "supervised": e.supervised,
        "rewarded": e.on_policy and e.rewarded,
        "advantages": e.advantage,
        # A rollout that was not scored has no ratio: NaN, so that learning from it shows.
        "old_log_probs": np.nan if e.on_policy and e.old_log_probs is None else e.old_log_probs,
        "sampler_log_probs": e.log_probs,
        "reference_log_probs": e.reference_log_probs,
        "old_values": e.old_values,
        "returns": e.returns,
    }
