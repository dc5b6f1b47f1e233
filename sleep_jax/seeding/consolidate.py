"""Knowledge Seeding of one slot: the part of a consolidation that takes time.

Each update mixes teacher-written sequences with fresh student rollouts; only the new slot learns.
`carry_out` puts it into its transaction: measure, seed, measure, accept or roll back.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import grain.python as grain
import jax
import jax.numpy as jnp
import optax

from sleep_jax.data.batches import bucket, pack, pad
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.memory.slots import put_slot, take_slot
from sleep_jax.models.config import DecoderConfig
from sleep_jax.seeding.imitation import ImitationConfig, Judge, roll_out
from sleep_jax.seeding.objective import Objective, objective_terms
from sleep_jax.seeding.sequences import (
    BatchShape,
    Exchange,
    Teacher,
    batch_of,
    heads_of,
    packs,
    taught,
)
from sleep_jax.seeding.step import init_state, seeding_step
from sleep_jax.seeding.transaction import Gate, Self, TeacherIsStudent, Transaction, aim_router

Log = Callable[[int, dict[str, float]], None]


class NotFinite(RuntimeError):
    """What a night computes are no numbers; the memory stays what it was before."""


@dataclasses.dataclass(frozen=True)
class SeedingConfig:
    """One night's seeding.

    Attributes:
      steps: updates of the slot.
      learning_rate, warmup: Adam's peak rate, reached after `warmup` steps; it decays along a
        cosine to a tenth.
      shape: packed rows of an update.
      dreams: teacher-written sequences that the student imitates in each update.
      updates_per_rollout: updates whose rollouts are sampled at once.
      rollouts_from: share of the steps after which rollouts join; before, the student knows too
        little for them to earn anything.
      max_skipped: updates in a row that may be left out because they are not finite; one more, and
        the night stops.
      objective, imitation: what is optimised.
    """

    steps: int
    learning_rate: float
    warmup: int
    shape: BatchShape
    dreams: int
    updates_per_rollout: int
    rollouts_from: float
    objective: Objective
    imitation: ImitationConfig
    max_skipped: int = 5

    def __post_init__(self):
        if self.steps <= self.warmup:
            raise ValueError(
                f"seeding.steps={self.steps} does not exceed seeding.warmup={self.warmup}; "
                "raise the one or lower the other"
            )
        if self.max_skipped < 0:
            raise ValueError(f"seeding.max_skipped={self.max_skipped}; give 0 or more updates")
        if not 0 <= self.rollouts_from <= 1:
            raise ValueError(
                f"seeding.rollouts_from={self.rollouts_from}; it is a share of the steps, in [0, 1]"
            )

    def optimizer(self) -> optax.GradientTransformation:
        """Adam behind a clipped gradient."""
        return _optimizer(self.learning_rate, self.warmup, self.steps)


@functools.cache  # one object a setting: for any other, the step would compile anew every night
def _optimizer(peak: float, warmup: int, steps: int) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps, peak / 10)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def shuffled(exchanges: Sequence[Exchange], seed: int) -> Iterator[Exchange]:
    """An endless stream over the exchanges, every epoch in a new order that the seed fixes."""
    return iter(grain.MapDataset.source(exchanges).seed(seed).shuffle().repeat())


def compose(
    first: Sequence[Exchange], stream: Iterator[Exchange], shape: BatchShape
) -> tuple[list[Exchange], Iterator[Exchange]]:
    """One update's exchanges: `first`, then as many from the stream as its rows still hold.

    Returns:
      The exchanges and the stream, which still begins with what did not fit.
    """
    chosen = list(first)
    for exchange in stream:
        if len(packs([*chosen, exchange], shape)) > shape.rows:
            return chosen, itertools.chain([exchange], stream)
        chosen.append(exchange)
    return chosen, stream


def rollout_widths(exchanges: Sequence[Exchange], imitation: ImitationConfig) -> tuple[int, int]:
    """Tokens of the longest prompt of a rollout, and of its row before the teacher."""
    dreams = [e for e in exchanges if e.is_dream]
    student = max((len(e.student) + len(e.completion) for e in dreams), default=1)
    teacher = max((len(e.teacher) + len(e.completion) for e in dreams), default=1)
    return bucket(student), bucket(teacher + imitation.max_new_tokens)


def _check_room(seeding: SeedingConfig, prompt_width: int, rollouts: int) -> None:
    """Raises where an update's rollouts, all as long as can be, would not fit its rows."""
    shape, new = seeding.shape, seeding.imitation.max_new_tokens
    size = (min(prompt_width + new - len(shape.opening), shape.time - len(shape.opening)), new)
    needed = len(pack([size] * rollouts, (shape.time - len(shape.opening), shape.scored)))
    if needed > shape.rows:
        raise ValueError(
            f"{rollouts} rollouts of an update (seeding.dreams x seeding.group) may need {needed} "
            f"rows, more than seeding.rows={shape.rows}; raise it or lower one of the two"
        )


def divergence(
    cfg: DecoderConfig, variables, exchanges, teachers: Sequence[Teacher], shape: BatchShape
) -> float:
    """Mean KL(teacher || student) in nats a token over the exchanges."""
    heads, hidden = heads_of(teachers), taught(teachers, exchanges)
    objective = Objective(weights=tuple(t.weight for t in teachers))
    total = count = 0.0
    rows = packs(exchanges, shape)
    for start in range(0, len(rows), shape.rows):
        batch = batch_of(exchanges, hidden, rows[start : start + shape.rows], shape)
        part = _divergence(cfg, objective, variables, batch, heads)
        total, count = total + float(part[0]), count + float(part[1])
    return total / max(count, 1.0)


@jax.jit(static_argnames=("cfg", "objective"))
def _divergence(cfg, objective, variables, batch, heads):
    return objective_terms(cfg, objective, variables, batch, heads)[0]["kl_off"]


def seed_slot(
    cfg: DecoderConfig,
    tokenizer: Tokenizer,
    judge: Judge,
    seeding: SeedingConfig,
    *,
    student,
    teachers: Sequence[Teacher],
    level: int,
    index: int,
    exchanges: Sequence[Exchange],
    rng,
    log: Log,
):
    """Seeds one slot.

    Args:
      cfg: the decoder.
      tokenizer, judge: for the imitation reward.
      seeding: how.
      student: collections of the self that has not read, the new slot active.
      teachers: the self that has read; other small selves beside it, if any.
      level, index: the slot that learns.
      exchanges: teacher-written sequences.
      rng: PRNG key.
      log: is given every step's metrics.

    Returns:
      The student's collections with the seeded slot; every other leaf is the one that came in.

    Raises:
      NotFinite: more than `seeding.max_skipped` updates in a row were not finite.
      ValueError: nothing was written that could be learnt.
    """
    if not any(e.completion for e in exchanges):
        raise ValueError(
            f"{len(exchanges)} sequences to learn from, all of them empty; let the teacher write "
            "some (study.recitations, study.questions), or longer ones (study.max_answer_tokens)"
        )
    weights = tuple(t.weight for t in teachers)
    objective = dataclasses.replace(seeding.objective, weights=weights)
    optimizer, heads = seeding.optimizer(), heads_of(teachers)
    state = init_state(take_slot(student["memory"], level, index), optimizer)
    data_seed = int(jax.random.randint(jax.random.fold_in(rng, 0), (), 0, 2**31 - 1))
    hidden = dict(zip(map(id, exchanges), taught(teachers, exchanges)))
    stream = shuffled(exchanges, data_seed)
    dreams = shuffled([e for e in exchanges if e.is_dream], data_seed + 1)
    prompt_width, teacher_width = rollout_widths(exchanges, seeding.imitation)
    share = seeding.dreams * seeding.imitation.group
    _check_room(seeding, prompt_width, share)
    can_imitate = seeding.dreams > 0 and any(e.is_dream for e in exchanges)
    is_on_policy = can_imitate and (objective.alpha < 1 or objective.lam > 0)
    first = round(seeding.rollouts_from * seeding.steps)
    rollouts: list[Exchange] = []
    rewards: dict[str, float] = {}
    skipped = 0  # updates in a row
    for step in range(seeding.steps):
        if is_on_policy and step >= first and not rollouts:
            current = {**student, "memory": put_slot(student["memory"], level, index, state.slot)}
            rollouts, rewards = roll_out(
                cfg,
                current,
                tokenizer,
                judge,
                seeding.imitation,
                list(itertools.islice(dreams, seeding.updates_per_rollout * seeding.dreams)),
                jax.random.fold_in(rng, step + 1),
                width=prompt_width,
            )
            scored = taught(teachers, rollouts, width=teacher_width)
            hidden |= zip(map(id, rollouts), scored)
        here, rollouts = rollouts[:share], rollouts[share:]
        chosen, stream = compose(here, stream, seeding.shape)
        batch = batch_of(
            chosen, [hidden[id(e)] for e in chosen], packs(chosen, seeding.shape), seeding.shape
        )
        state, metrics = seeding_step(
            cfg, objective, optimizer, level, jnp.int32(index), state, student, batch, heads
        )
        for e in here:
            del hidden[id(e)]
        figures = {name: float(value) for name, value in metrics.items()}
        if not here:  # what rollouts alone have is no figure of this update
            figures = {k: v for k, v in figures.items() if not k.startswith(("kl_on", "policy_"))}
        log(step, figures | rewards)
        skipped = skipped + 1 if figures["skipped"] else 0
        if skipped > seeding.max_skipped:
            raise NotFinite(
                f"update {step} is number {skipped} in a row that is not finite, more than "
                f"seeding.max_skipped={seeding.max_skipped}; lower seeding.learning_rate "
                "(dreaming.learning_rate in a dream) or set model.dtype='float32'. The memory is "
                "what it was before this phase"
            )
    return {**student, "memory": put_slot(student["memory"], level, index, state.slot)}


def carry_out(
    cfg: DecoderConfig,
    params,
    tokenizer: Tokenizer,
    judge: Judge,
    seeding: SeedingConfig,
    gate: Gate,
    transaction: Transaction,
    *,
    teachers: Sequence[Teacher],
    exchanges: Sequence[Exchange],
    probe: Sequence[Exchange],
    anchors: Callable[[dict], float],
    rng,
    log: Log,
) -> tuple[Self, dict[str, float | str]]:
    """Seeds, gates and ends a consolidation.

    Args:
      cfg, params, tokenizer, judge, seeding: as for `seed_slot`.
      gate: when the slot is accepted.
      transaction: that has begun.
      teachers: who teach; see `seed_slot`.
      exchanges: what the slot learns from.
      probe: sequences held out of it, for the divergence.
      anchors: the anchor perplexity of a model.
      rng: PRNG key.
      log: is given every step's metrics, and before the first, as step -1, kl_before.

    Returns:
      (self, figures): the self after the night, or the one before it, byte for byte, where the gate
      objects (`rolled_back` then says why); kl_before and kl_after on the probe, in nats a token.

    Raises:
      TeacherIsStudent: there is nothing to learn.
      NotFinite: the divergence is no number, or updates are not.
    """
    level, index = transaction.level, transaction.index
    replay = [(*e.student, *e.completion)[: seeding.shape.time] for e in exchanges]
    rows = pad(replay, seeding.shape.time)
    student = aim_router(cfg, params, transaction.student, level, index, *rows)
    begun = student.on(params)
    before = divergence(cfg, begun, probe, teachers, seeding.shape)
    if not math.isfinite(before):
        raise NotFinite(
            f"teacher and student diverge by {before} nats a token before the night of level "
            f"{level}: the logits of one are not finite; set model.dtype='float32', or load finite "
            "weights"
        )
    if before < 1e-6:
        raise TeacherIsStudent(
            f"teacher and student agree before the night (KL = {before:.1e}): there is nothing to "
            f"hand to level {level}"
        )
    log(-1, {"kl_before": before})
    anchors_before = anchors(transaction.before.on(params))
    seeded = seed_slot(
        cfg,
        tokenizer,
        judge,
        seeding,
        student=begun,
        teachers=teachers,
        level=level,
        index=index,
        exchanges=exchanges,
        rng=rng,
        log=log,
    )
    after = divergence(cfg, seeded, probe, teachers, seeding.shape)
    figures = {"kl_before": before, "kl_after": after}
    if objection := gate.objection(before, after, anchors_before, anchors(seeded)):
        return transaction.before, figures | {"rolled_back": objection}
    return transaction.commit(seeded["memory"]), figures
