"""Sequences of a night: what the student is asked, what its teacher is asked with the document in
view, what was written.

The two prompts differ, the completion is shared: the divergence compares both models token by token
along it.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from sleep_jax.data.batches import bucket, pack, pad
from sleep_jax.models.cache import take_rows
from sleep_jax.models.decoder import lm_head
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.mixer import SHARED_PREFIX
from sleep_jax.models.sharding import place, row_shards, spread_evenly, to_host
from sleep_jax.sampling.sampler import prefill
from sleep_jax.seeding.objective import SeedingBatch
from sleep_jax.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class Exchange:
    """A prompt in both views and a completion.

    Attributes:
      document: index of the document that the teacher has in its context; None: none, the teacher
        is the model as it was.
      student: prompt tokens of the student.
      teacher: prompt tokens of the teacher, after its context.
      completion: tokens written, end of turn included.
      kind: how it came about, e.g. `recite` or `answer`.
      on_policy: the student wrote the completion.
      advantage: of the completion, for the policy gradient, or of its tokens, [completion].
      log_probs: of the completion when it was sampled, [completion].
      old_log_probs: of the completion by the scorer when its round began, [completion]: what ratios
        start from.
      reference_log_probs: of the completion under the student before the night, [completion].
      old_values, returns: of its tokens, for a value head, [completion].
      rewarded: the policy gradient learns from it, where it is on-policy.
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
        """Teacher and student are asked the same, with nothing else in view."""
        return self.document is None and self.teacher == self.student

    @property
    def is_imitable(self) -> bool:
        """The student can imitate it: a reply about a document that can be cut in two."""
        return self.kind in ("complete", "quote", "answer") and len(self.completion) > 1


class States(NamedTuple):
    """What models make of an exchange, whatever the slot learns.

    Attributes:
      teacher: float32 [completion, sum of d], the hidden states of all teachers, side by side; row
        i predicts token i.
      trunk: float32 [student's prompt and completion but its last token, d], the student's residual
        stream after the layers that carry no memory; None: not known, or there are none.
    """

    teacher: np.ndarray
    trunk: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Teacher:
    """One who teaches: a memory over the student's base, or another checkpoint altogether.

    Attributes:
      cfg, variables: the model, in scanned form.
      context: what it has read, a cache with one row a document and a last, empty one.
      weight: of its divergence.
    """

    cfg: DecoderConfig
    variables: Any
    context: Any
    weight: float = 1.0


def heads_of(teachers: Sequence[Teacher]):
    """The LM heads of several teachers; None for one, who shares the student's base."""
    if len(teachers) == 1:
        return None
    return tuple(lm_head(t.cfg, t.variables["params"]) for t in teachers)


def teacher_hidden(
    cfg: DecoderConfig,
    variables,
    cache,
    exchanges: Sequence[Exchange],
    *,
    width: int | None = None,
    budget: int = 2048,
) -> list[np.ndarray]:
    """A teacher's hidden states along each completion.

    Args:
      cfg, variables, cache: the teacher and what it has read; see `Teacher`.
      exchanges: what to score.
      width: tokens that all rows are padded to; None: buckets.
      budget: tokens scored at a time, padding included, by every shard of a mesh.

    Returns:
      Per exchange float32 [completion, d]; row i predicts token i.
    """
    out: list[np.ndarray] = [None] * len(exchanges)
    length = [len(e.teacher + e.completion[:-1]) for e in exchanges]
    order = sorted(range(len(exchanges)), key=length.__getitem__)
    while order:
        # The longest left decide the width; all rows of one width are one program.
        columns = width or bucket(length[order[-1]])
        most = budget // columns * row_shards()
        count = spread_evenly(max(1, min(most, bucket(len(exchanges), 4))))
        chosen, order = order[-count:], order[:-count]
        picked = [exchanges[i] for i in chosen]
        picked += [picked[0]] * (count - len(picked))
        tokens, mask = pad([e.teacher + e.completion[:-1] for e in picked], columns)
        context = take_rows(cfg, cache, [-1 if e.document is None else e.document for e in picked])
        hidden = to_host(prefill(cfg, variables, tokens, mask, context)[1])
        for row, i in enumerate(chosen):
            first = len(exchanges[i].teacher) - 1
            out[i] = hidden[row, first : first + len(exchanges[i].completion)]
    return out


# Fields of a batch with one entry a scored token.
SCORED = {
    **dict.fromkeys(("scored", "targets", "sequence"), np.int32),
    **dict.fromkeys(("mask", "on_policy", "supervised", "rewarded"), bool),
    **dict.fromkeys(("advantages", "old_log_probs"), np.float32),
    **dict.fromkeys(("sampler_log_probs", "reference_log_probs"), np.float32),
    **dict.fromkeys(("old_values", "returns"), np.float32),
}


@dataclasses.dataclass(frozen=True)
class BatchShape(Settings, section="seeding"):
    """The one static shape of a seeding batch.

    Attributes:
      shared_prefix: what prompts begin with, e.g. a system message: a row holds it once, and every
        sequence that begins with it continues it.
    """

    batch_size: int = setting(4, "packed rows of an update", least=1)
    max_length: int = setting(448, "tokens of a row", least=1)
    max_target_length: int = setting(320, "tokens of a row that are scored", least=1)
    shared_prefix: tuple[int, ...] = ()

    def shared(self, exchange: Exchange) -> int:
        """How many tokens of a prompt a row holds already; a whole prompt is never shared."""
        n = len(self.shared_prefix)
        return n if n < len(exchange.student) and exchange.student[:n] == self.shared_prefix else 0


def packs(exchanges: Sequence[Exchange], shape: BatchShape) -> list[list[int]]:
    """Rows of a batch, as indices of the exchanges in them.

    Raises:
      ValueError: an exchange is longer than a row.
    """
    sizes = [
        (len(e.student + e.completion[:-1]) - shape.shared(e), len(e.completion)) for e in exchanges
    ]
    return pack(sizes, (shape.max_length - len(shape.shared_prefix), shape.max_target_length))


def batch_of(
    exchanges: Sequence[Exchange],
    states: Sequence[States],
    packed: Sequence[Sequence[int]],
    shape: BatchShape,
) -> SeedingBatch:
    """A batch, in the student's view.

    Args:
      exchanges: what to learn from.
      states: of each; the trunk of all of them is known, or of none.
      packed: at most `shape.batch_size` rows, from `packs`; missing ones are padding.
      shape: of the batch.
    """
    grid, scored = (shape.batch_size, shape.max_length), (shape.batch_size, shape.max_target_length)
    tokens, segments = np.zeros(grid, np.int32), np.zeros(grid, np.int32)
    out = {name: np.zeros(scored, dtype) for name, dtype in SCORED.items()}
    out["teacher"] = np.zeros((*scored, states[0].teacher.shape[-1]), np.float32)
    trunk = None
    if states[0].trunk is not None:
        trunk = np.zeros((*grid, states[0].trunk.shape[-1]), np.float32)
    for row, items in enumerate(packed):
        t, s = len(shape.shared_prefix), 0
        tokens[row, :t], segments[row, :t] = shape.shared_prefix, SHARED_PREFIX
        for segment, i in enumerate(items, start=1):
            e = exchanges[i]
            held = shape.shared(e)
            prompt = e.student[held:]
            sequence = prompt + e.completion[:-1]
            n, c = len(sequence), len(e.completion)
            tokens[row, t : t + n] = sequence
            segments[row, t : t + n] = segment if held else SHARED_PREFIX - segment
            if trunk is not None:
                trunk[row, :held], trunk[row, t : t + n] = np.split(states[i].trunk, [held])
            facts = _facts(e) | {"teacher": states[i].teacher, "sequence": i}
            facts["scored"] = t + len(prompt) - 1 + np.arange(c)
            for name, fact in facts.items():
                if fact is not None:
                    out[name][row, s : s + c] = fact
            t, s = t + n, s + c
    batch = SeedingBatch(tokens=tokens, segment_ids=segments, trunk=trunk, **out)
    return place(batch, "batch")


def batches(
    exchanges: Sequence[Exchange], states: Sequence[States], shape: BatchShape
) -> Iterator[tuple[list[list[int]], SeedingBatch]]:
    """All exchanges, a batch at a time: its rows, as indices of the exchanges in them, and it."""
    rows = packs(exchanges, shape)
    for start in range(0, len(rows), shape.batch_size):
        packed = rows[start : start + shape.batch_size]
        yield packed, batch_of(exchanges, states, packed, shape)


def along(
    exchanges: Sequence[Exchange], packed: Sequence[Sequence[int]], values
) -> Iterator[tuple[int, np.ndarray]]:
    """What a batch's scored tokens got, [rows, scored, ...], as (index of an exchange, what its
    completion got)."""
    for row, items in zip(values, packed):
        ends = np.cumsum([len(exchanges[i].completion) for i in items])
        yield from zip(items, np.split(row, ends))


def _facts(e: Exchange) -> dict:
    """What a batch says of an exchange's completion, of each token or of all alike."""
    return {
        "mask": True,
        "targets": e.completion,
        "on_policy": e.on_policy,
        "supervised": e.supervised,
        "rewarded": e.on_policy and e.rewarded,
        "advantages": e.advantage,
        # A rollout that is not scored yet has no ratio: to learn from it is no number.
        "old_log_probs": np.nan if e.on_policy and e.old_log_probs is None else e.old_log_probs,
        "sampler_log_probs": e.log_probs,
        "reference_log_probs": e.reference_log_probs,
        "old_values": e.old_values,
        "returns": e.returns,
    }
