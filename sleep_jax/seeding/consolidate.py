"""Knowledge Seeding of one slot: the part of a consolidation that takes time.

Each update mixes teacher-written sequences with fresh student rollouts; only the new slot learns.
`run_consolidation` makes it a transaction: measure, seed, measure, accept or roll back.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from sleep_jax.data.batches import pad
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.memory.slots import put_slot, take_slot, used
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import place
from sleep_jax.rewards.judge import Judge
from sleep_jax.seeding.early_stopping import EarlyStopping, OwnAnswers
from sleep_jax.seeding.first_order import FirstOrderBound, check_reach, first_gradient
from sleep_jax.seeding.gate import Gate, top_k_hint
from sleep_jax.seeding.host_arrays import HostArrays
from sleep_jax.seeding.mixture import fill_batch, sequence_sizes, shuffled, widest_spacing
from sleep_jax.seeding.null_space import known_basis, projected
from sleep_jax.seeding.objective import Objective, objective_terms
from sleep_jax.seeding.rollout_buffer import RolloutBuffer
from sleep_jax.seeding.rollouts import collect_rollouts
from sleep_jax.seeding.router_key import init_router_key
from sleep_jax.seeding.seeding_config import SeedingConfig, automatic_rate
from sleep_jax.seeding.sender_units import slot_from_sender
from sleep_jax.seeding.sequences import (
    BatchShape,
    Exchange,
    HiddenStates,
    Teacher,
    batches,
    make_batch,
    pack_exchanges,
    teacher_heads,
)
from sleep_jax.seeding.step import SeedingState, init_critic, init_state, seeding_step
from sleep_jax.seeding.taught_states import TaughtStates, TeacherWithSlot
from sleep_jax.seeding.transaction import MemoryState, TeacherIsStudent, Transaction
from sleep_jax.seeding.trunk import precompute
from sleep_jax.seeding.update_log import NotFinite, UpdateLog
from sleep_jax.services import NO_TIMER, Log, MidPhaseCheckpoint, StepTimer

LAM_STREAM = 2**31 - 1  # of `lam_rng`; the streams of rounds are numbered by updates
KNOWN_PROBE = 8  # sequences that measure what a night does to what was known


def mean_divergence(
    cfg: DecoderConfig,
    variables,
    exchanges: Sequence[Exchange],
    states: Sequence[HiddenStates],
    teachers: Sequence[Teacher],
    shape: BatchShape,
) -> float:
    """KL(teacher || student) in nats, mean over the target tokens of exchanges.

    Args:
      cfg, variables: the student.
      exchanges: teacher-written.
      states: hidden states of each (`precompute`).
      teachers: whose states they are.
      shape: of the batches.
    """
    heads = teacher_heads(teachers)
    objective = Objective(weights=tuple(t.weight for t in teachers))
    total = count = 0.0
    for _, batch in batches(exchanges, states, shape):
        batch_total, batch_count = sum_divergence(cfg, objective, variables, batch, heads)
        total, count = total + float(batch_total), count + float(batch_count)
    return total / max(count, 1.0)


def known_probe(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """At most KNOWN_PROBE of the exchanges that were known before the day, spread evenly."""
    known = [e for e in exchanges if e.is_known and e.completion]
    return known[:: math.ceil(len(known) / KNOWN_PROBE) or 1]


@jax.jit(static_argnames=("cfg", "objective"))
def sum_divergence(cfg, objective, variables, batch, heads):
    """(sum in nats, tokens) of the divergence over the teacher-written target tokens of a batch."""
    return objective_terms(cfg, objective, variables, batch, heads)[0]["kl_off"]


def data_seed(rng) -> int:
    """Seed of the order in which `seed_slot` draws exchanges, in [0, 2^31 - 1)."""
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
    teacher_with_slot: TeacherWithSlot | None = None,
    answers: OwnAnswers | None = None,
    mid_phase: MidPhaseCheckpoint | None = None,
    timer: StepTimer = NO_TIMER,
    arrays: HostArrays | None = None,
):
    """Seeds one slot.

    Args:
      cfg: the decoder.
      tokenizer, judge: for the imitation reward.
      seeding: the settings of the night.
      student: collections of the model without what is to be learnt, the new slot active.
      teachers: the model with it, and other models, if any.
      level, index: the slot that learns.
      exchanges: teacher-written sequences.
      rng: PRNG key.
      log: is given every step's figures.
      written: rollouts that were sampled and rewarded before. Each update learns from
        `seeding.num_prompts` of them, in turn, and none are sampled.
      teacher_with_slot: as for `TaughtStates`.
      answers: own questions that with `seeding.eval_steps` say when the night ends.
      mid_phase: keeps the state of the night, so that a preempted one resumes and ends with the
        same bits.
      timer: takes the time of updates.
      arrays: holds the hidden states of the exchanges; None: as `seeding.teacher_memory` has it.

    Returns:
      The student's collections with the seeded slot; every other leaf is the one that came in.

    Raises:
      NotFinite: more than `seeding.max_consecutive_errors` updates in a row were not finite.
      ValueError: `exchanges` have no completions, or the rollouts of an update may not fit its
        rows.
    """
    if not any(e.completion for e in exchanges):
        raise ValueError(
            f"{len(exchanges)} sequences to learn from, all of them empty; let the teacher write "
            "some (study.recitations, study.questions), or longer ones (study.max_answer_tokens)"
        )
    weights = tuple(t.weight for t in teachers)
    seeding = seeding.at_level(cfg, level)
    seeding = dataclasses.replace(
        seeding, objective=dataclasses.replace(seeding.objective, weights=weights)
    )
    optimizer, heads = seeding.optimizer(), teacher_heads(teachers)

    def with_slot(slot):
        memory = put_slot(student["memory"], level, index, slot)
        return {**student, "memory": place(memory, "memory")}

    def collect(**round_facts):
        return collect_rollouts(
            cfg,
            tokenizer,
            judge,
            seeding.imitation,
            seeding.shape,
            initial=student,
            teachers=taught.teachers,
            written=written,
            timer=timer,
            **round_facts,
        )

    arrays = arrays or seeding.host_arrays()
    taught = TaughtStates(cfg, student, seeding, teachers, teacher_with_slot, arrays)
    basis, kept_out = known_basis(
        cfg,
        student,
        level,
        exchanges,
        seeding.shape.max_length,
        seeding.null_space,
        seeding.null_space_spare,
    )
    slot = projected(take_slot(student["memory"], level, index), basis)
    state = place(taught.initial(_initial_state(cfg, seeding, slot)), "learner")
    seed = data_seed(rng)
    is_stochastic = seeding.objective.lam_as_probability
    lam_rng = jax.random.fold_in(rng, LAM_STREAM) if is_stochastic else None
    buffer = RolloutBuffer(seeding, exchanges, written, collect, rng, seed + 1)
    buffer.collect_written(student, state.value_head)
    stopping = EarlyStopping.of(seeding, answers)
    update_log, done, drawn = UpdateLog(log, seeding.max_consecutive_errors, timer), 0, 0
    if mid_phase is not None and (kept := mid_phase.find(state)):
        done, state, facts = kept
        drawn = facts["drawn"]["stream"]
        buffer.resume(done, facts["drawn"]["dreams"])
        for step, figures in facts["logged"]:
            update_log.log(step, figures)
        stopping.history += map(tuple, facts.get("answers", ()))
    taught.compute(exchanges, state)
    share = seeding.known_share
    spacing = widest_spacing(exchanges, seeding.shape, seed, seeding.steps, share)
    stream = itertools.islice(shuffled(exchanges, seed, spacing, share), drawn, None)
    for step in itertools.count(done):
        if stopping.is_over(step):
            break
        timer.begin(step)
        state = taught.refreshed(step, state)
        objective = seeding.objective_at(step)
        if buffer.is_due(step, objective):
            buffer.collect(step, with_slot(state.slot), state.value_head)
        rollouts = buffer.take()
        chosen, stream = fill_batch(rollouts, stream, seeding.shape)
        drawn += len(chosen) - len(rollouts)
        states_by_id = taught.states | buffer.states
        states = [states_by_id[id(e)] for e in chosen]
        arrays.let_go()
        packed = pack_exchanges(chosen, seeding.shape)
        state, metrics = seeding_step(
            cfg,
            objective,
            optimizer,
            level,
            jnp.int32(index),
            state,
            student,
            make_batch(chosen, states, packed, seeding.shape),
            heads,
            lam_rng,
            basis,
        )
        if not rollouts:  # metrics of on-policy tokens are of no tokens
            metrics = {k: v for k, v in metrics.items() if not k.startswith(("kl_on", "policy_"))}
        sizes = sequence_sizes(chosen, seeding.shape)
        figures = buffer.take_figures() | (kept_out if step == 0 else {})
        if stopping.is_due(step + 1):
            figures["answers_right"] = float(stopping.evaluate(step + 1, with_slot(state.slot)))
        update_log.add(step, metrics, figures, sizes)
        if mid_phase is not None and buffer.is_resumable and mid_phase.is_due(step + 1):
            update_log.flush()
            counts = {"stream": drawn, "dreams": buffer.dreams_drawn}
            facts = {"drawn": counts, "logged": update_log.logged, "answers": stopping.history}
            mid_phase.keep(step + 1, state, facts)
    update_log.flush()
    return with_slot(state.slot)


def _initial_state(cfg: DecoderConfig, seeding: SeedingConfig, slot) -> SeedingState:
    """The state before the first update, with a critic if rollouts are learnt from by PPO."""
    state = init_state(slot, seeding.optimizer())
    state = state.replace(opt_state=seeding.with_length(state.opt_state))
    surrogate = seeding.imitation.surrogate
    if surrogate.gae is not None and seeding.num_prompts > 0:
        state = state.replace(critic=init_critic(cfg.width, surrogate.value_learning_rate))
    return state


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
    teacher_with_slot: TeacherWithSlot | None = None,
    answers: OwnAnswers | None = None,
    task_falls: Callable[[dict, dict], dict[str, float]] | None = None,
    mid_phase: MidPhaseCheckpoint | None = None,
    timer: StepTimer = NO_TIMER,
) -> tuple[MemoryState, dict[str, float | str]]:
    """Runs a consolidation to its end: seeds the slot and commits, or rolls back.

    Args:
      cfg, tokenizer, judge, seeding: as for `seed_slot`.
      params: the base.
      gate: says whether the slot is accepted.
      transaction: that has begun.
      teachers: as for `seed_slot`.
      exchanges: what the slot learns from.
      probe: held-out sequences that the divergence is measured on.
      anchors: takes the collections of a model and returns its anchor perplexity.
      rng: PRNG key.
      log: is given every step's figures, and before the first, as step -1, those `before`.
      teacher_with_slot: as for `seed_slot`; the divergence is measured from `teachers`.
      answers: own questions that the gate judges (`gate.answers`), and as for `seed_slot`.
      task_falls: takes the collections before and after the night and returns how far each task has
        fallen, for the gate; asked only of a slot that it accepts otherwise.
      mid_phase, timer: as for `seed_slot`.

    Returns:
      (state, figures): the memory after the night or, where the gate rejects the slot, the one
      before it, byte for byte; figures kl_before and kl_after on the probe, in nats a token,
      kl_known_before and kl_known_after likewise on some of what was known before the day, if any
      of `exchanges` was; where the gate asks for less divergence first_order_fall, the share of
      kl_before that the updates remove to first order; with `answers`, answers_right of
      answers_asked or, where these are too few, answers, which says so; with `task_falls`, these as
      fall_ and the name of the task; and after a rejection rolled_back, the reason in words.

    Raises:
      OutOfReach: that share is below a tenth of what the gate asks; before the first update.
      TeacherIsStudent: teacher and student agree before the night.
      NotFinite: the divergence, or too many updates in a row, are not finite.
      ValueError: as `seed_slot`.
    """
    level, index = transaction.level, transaction.index
    seeding = seeding.at_level(cfg, level)
    replay = [(*e.student, *e.completion)[: seeding.shape.max_length] for e in exchanges]
    rows = pad(replay, seeding.shape.max_length)
    student = transaction.student
    if not transaction.is_reuse:  # a slot that was in use has learnt its key
        is_known = [e.is_known for e in exchanges]
        student = init_router_key(cfg, params, student, level, index, *rows, is_known)
    variables = student.variables(params)

    def measured(on: Sequence[Exchange], states: Sequence[HiddenStates]):
        return lambda model: mean_divergence(cfg, model, on, states, teachers, seeding.shape)

    arrays = seeding.host_arrays()
    states = precompute(cfg, variables, teachers, probe, seeding.shape, arrays=arrays)
    divergence = measured(probe, states)
    before = divergence(variables)
    if not math.isfinite(before):
        raise NotFinite(
            f"teacher and student diverge by {before} nats a token before the night of level "
            f"{level}: the logits of one are not finite; set model.dtype='float32', or load finite "
            "weights"
        )
    if before < 1e-6:
        raise TeacherIsStudent(
            f"teacher and student agree before the night (KL = {before:.1e}): there is nothing to "
            f"consolidate into level {level}"
        )
    figures = {"kl_before": before}
    if known := known_probe(exchanges):
        known_states = precompute(cfg, variables, teachers, known, seeding.shape, arrays=arrays)
        known_divergence = measured(known, known_states)
        figures["kl_known_before"] = known_divergence(variables)
    if gate.divergence < 1:
        gradient = first_gradient(cfg, variables, level, index, probe, states, teachers, seeding)
        bound = FirstOrderBound(before, float(optax.tree.norm(gradient, ord=1)), seeding.distance)
        figures["first_order_fall"] = bound.share
        check_reach(bound, seeding, gate, automatic_rate(cfg, level))
    log(-1, figures)
    anchors_before = anchors(transaction.before.variables(params))
    if seeding.slot_init == "sender" and transaction.has_sender_units:
        slot = slot_from_sender(
            cfg,
            transaction.teacher.variables(params),
            level,
            take_slot(variables["memory"], level, index),
            [e for e in exchanges if not e.is_known],
            seeding.shape.max_length,
        )
        variables = variables | {"memory": put_slot(variables["memory"], level, index, slot)}
    seeded = seed_slot(
        cfg,
        tokenizer,
        judge,
        seeding,
        student=variables,
        teachers=teachers,
        level=level,
        index=index,
        exchanges=exchanges,
        rng=rng,
        log=log,
        teacher_with_slot=teacher_with_slot,
        answers=answers,
        mid_phase=mid_phase,
        timer=timer,
        arrays=arrays,
    )
    figures["kl_after"] = after = divergence(seeded)
    if known:
        figures["kl_known_after"] = known_divergence(seeded)
    reason = gate.rejection_reason(before, after, anchors_before, anchors(seeded))
    if answers is not None and answers.too_few:
        figures["answers"] = answers.too_few
    elif answers is not None:
        right = answers.right(seeded)
        figures |= {"answers_right": right, "answers_asked": answers.total}
        reason = reason or gate.answers_rejection_reason(right, answers.total)
    if task_falls is not None and not reason:
        falls = task_falls(transaction.before.variables(params), seeded)
        figures |= {f"fall_{task}": fall for task, fall in falls.items()}
        reason = gate.tasks_rejection_reason(falls)
    if reason:
        reason += top_k_hint(cfg.memory, used(student.slots, level))
        return transaction.before, figures | {"rolled_back": reason}
    return transaction.commit(seeded["memory"]), figures
