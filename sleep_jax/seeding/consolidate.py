"""Knowledge Seeding of one slot: the part of a consolidation that takes time.

Each update mixes teacher-written sequences with fresh student rollouts; only the new slot learns.
`run_consolidation` puts it into its transaction: measure, seed, measure, accept or roll back.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from sleep_jax.data.batches import pad
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.memory.slots import put_slot, take_slot, used
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import place
from sleep_jax.rewards.judge import Judge
from sleep_jax.seeding.mixture import compose, shuffled, sizes, widest_spacing
from sleep_jax.seeding.objective import Objective, objective_terms
from sleep_jax.seeding.rollouts import play
from sleep_jax.seeding.rounds import Rounds
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import (
    BatchShape,
    Exchange,
    States,
    Teacher,
    batch_of,
    batches,
    heads_of,
    packs,
)
from sleep_jax.seeding.step import init_critic, init_state, seeding_step
from sleep_jax.seeding.transaction import (
    Gate,
    MemoryState,
    TeacherIsStudent,
    Transaction,
    about_seats,
    aim_router,
)
from sleep_jax.seeding.trunk import precompute
from sleep_jax.seeding.update_log import (
    NO_TIMER,
    Log,
    MidPhaseCheckpoint,
    NotFinite,
    Record,
    StepTimer,
)

COIN = 2**31 - 1  # the stream of the coin's flips; those of rounds are numbered by updates


def divergence(
    cfg: DecoderConfig,
    variables,
    exchanges: Sequence[Exchange],
    states: Sequence[States],
    teachers: Sequence[Teacher],
    shape: BatchShape,
) -> float:
    """Mean KL(teacher || student) in nats a token over the exchanges, whose states are known."""
    heads = heads_of(teachers)
    objective = Objective(weights=tuple(t.weight for t in teachers))
    total = count = 0.0
    for _, batch in batches(exchanges, states, shape):
        part = sum_divergence(cfg, objective, variables, batch, heads)
        total, count = total + float(part[0]), count + float(part[1])
    return total / max(count, 1.0)


@jax.jit(static_argnames=("cfg", "objective"))
def sum_divergence(cfg, objective, variables, batch, heads):
    """(sum in nats, tokens) of the divergence over the teacher-written tokens of a batch."""
    return objective_terms(cfg, objective, variables, batch, heads)[0]["kl_off"]


def order_seed(rng) -> int:
    """Seed of the order in which `seed_slot` draws exchanges."""
    return int(jax.random.randint(jax.random.fold_in(rng, 0), (), 0, 2**31 - 1))


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
    written: Sequence[Exchange] = (),
    mid_phase: MidPhaseCheckpoint | None = None,
    timer: StepTimer = NO_TIMER,
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
      written: on-policy sequences that were written and rewarded before. Updates learn from
        `seeding.num_prompts` of them each, in turn, and nothing is rolled out.
      mid_phase: keeps how far this has got and, where an earlier attempt was stopped, says how far
        that had; the end is the same, bit for bit.
      timer: takes the time of updates.

    Returns:
      The student's collections with the seeded slot; every other leaf is the one that came in.

    Raises:
      NotFinite: more than `seeding.max_consecutive_errors` updates in a row were not finite.
      ValueError: nothing was written that could be learnt.
    """
    if not any(e.completion for e in exchanges):
        raise ValueError(
            f"{len(exchanges)} sequences to learn from, all of them empty; let the teacher write "
            "some (study.recitations, study.questions), or longer ones (study.max_answer_tokens)"
        )
    weights = tuple(t.weight for t in teachers)
    seeding = dataclasses.replace(
        seeding, objective=dataclasses.replace(seeding.objective, weights=weights)
    )
    optimizer, heads = seeding.optimizer(), heads_of(teachers)

    def holding(slot):
        memory = put_slot(student["memory"], level, index, slot)
        return {**student, "memory": place(memory, "memory")}

    state = init_state(take_slot(student["memory"], level, index), optimizer)
    surrogate = seeding.imitation.surrogate
    if surrogate.gae is not None and seeding.num_prompts > 0:
        state = state.replace(critic=init_critic(cfg.width, surrogate.value_learning_rate))
    state = place(state, "learner")
    data_seed = order_seed(rng)
    coin_rng = jax.random.fold_in(rng, COIN) if seeding.objective.lam_as_probability else None
    rounds = Rounds(
        seeding,
        exchanges,
        written,
        functools.partial(
            play,
            cfg,
            tokenizer,
            judge,
            seeding.imitation,
            seeding.shape,
            initial=student,
            teachers=teachers,
            written=written,
            timer=timer,
        ),
        rng,
        data_seed + 1,
    )
    states = precompute(cfg, student, teachers, exchanges, seeding.shape)
    known = dict(zip(map(id, exchanges), states))
    rounds.begin(student, state.value_head)
    record, done, drawn = Record(log, seeding.max_consecutive_errors, timer), 0, 0
    if mid_phase is not None and (found := mid_phase.find(state)):
        done, state, facts = found
        drawn = facts["drawn"]["stream"]
        rounds.skip(done, facts["drawn"]["dreams"])
        for step, figures in facts["told"]:
            record.tell(step, figures)
    spacing = widest_spacing(exchanges, seeding.shape, data_seed, seeding.steps)
    stream = itertools.islice(shuffled(exchanges, data_seed, spacing), drawn, None)
    for step in range(done, seeding.steps):
        timer.begin(step)
        objective = seeding.objective_at(step)
        if rounds.is_due(step, objective):
            rounds.play(step, holding(state.slot), state.value_head)
        here = rounds.take()
        chosen, stream = compose(here, stream, seeding.shape)
        drawn += len(chosen) - len(here)
        states_of = known | rounds.known
        states = [states_of[id(e)] for e in chosen]
        batch = batch_of(chosen, states, packs(chosen, seeding.shape), seeding.shape)
        state, metrics = seeding_step(
            cfg,
            objective,
            optimizer,
            level,
            jnp.int32(index),
            state,
            student,
            batch,
            heads,
            coin_rng,
        )
        if not here:  # what rollouts alone have is no figure of this update
            metrics = {k: v for k, v in metrics.items() if not k.startswith(("kl_on", "policy_"))}
        record.add(step, metrics, rounds.told(), sizes(chosen, seeding.shape))
        # What was written before is there again after a stop.
        if mid_phase is not None and rounds.is_between and mid_phase.is_due(step + 1):
            record.flush()
            taken = {"stream": drawn, "dreams": rounds.drawn}
            mid_phase.keep(step + 1, state, {"drawn": taken, "told": record.told})
    record.flush()
    return holding(state.slot)


def run_consolidation(
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
    mid_phase: MidPhaseCheckpoint | None = None,
    timer: StepTimer = NO_TIMER,
) -> tuple[MemoryState, dict[str, float | str]]:
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
      mid_phase, timer: as for `seed_slot`.

    Returns:
      (self, figures): the self after the night, or the one before it, byte for byte, where the gate
      objects (`rolled_back` then says why); kl_before and kl_after on the probe, in nats a token.

    Raises:
      TeacherIsStudent: there is nothing to learn.
      NotFinite: the divergence is no number, or updates are not.
    """
    level, index = transaction.level, transaction.index
    replay = [(*e.student, *e.completion)[: seeding.shape.max_length] for e in exchanges]
    rows = pad(replay, seeding.shape.max_length)
    student = transaction.student
    if not transaction.is_reuse:  # a slot in use has learnt where it belongs
        student = aim_router(cfg, params, student, level, index, *rows)
    begun = student.on(params)
    states = precompute(cfg, begun, teachers, probe, seeding.shape)
    before = divergence(cfg, begun, probe, states, teachers, seeding.shape)
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
        mid_phase=mid_phase,
        timer=timer,
    )
    after = divergence(cfg, seeded, probe, states, teachers, seeding.shape)
    figures = {"kl_before": before, "kl_after": after}
    if rejection_reason := gate.rejection_reason(before, after, anchors_before, anchors(seeded)):
        rejection_reason += about_seats(cfg.memory, used(student.slots, level))
        return transaction.before, figures | {"rolled_back": rejection_reason}
    return transaction.commit(seeded["memory"]), figures
