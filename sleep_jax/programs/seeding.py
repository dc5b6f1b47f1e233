"""The programs of Knowledge Seeding, by which `consolidate` and `learn` change a slot."""

import collections
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from sleep_jax.memory.slots import take_slot
from sleep_jax.models.cache import row_bytes
from sleep_jax.models.decoder import run_trunk
from sleep_jax.programs.abstract import AbstractRun, first_receiver
from sleep_jax.programs.calls import END, judged, repeated, sampled
from sleep_jax.programs.program import Program, by_shape
from sleep_jax.programs.sizes import PROMPT
from sleep_jax.sampling.sampler import SamplingConfig, prefill
from sleep_jax.seeding.level_inputs import INPUT_ROWS, input_calls
from sleep_jax.seeding.null_space import leading_basis, max_rank, sum_outer_products
from sleep_jax.seeding.rollout_buffer import fitting_dreams, rollout_widths, rows_needed
from sleep_jax.seeding.rollout_scores import score_rows
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sender_units import largest_units, unit_sizes, units_of
from sleep_jax.seeding.sequences import (
    REHEARSED,
    BatchShape,
    Exchange,
    pack_exchanges,
    teacher_batches,
    teacher_length,
)
from sleep_jax.seeding.step import SeedingState, seeding_step
from sleep_jax.seeding.trunk import hidden_from_trunk


def batch_count(exchanges: Sequence[Exchange], shape: BatchShape) -> int:
    """Batches that hold some exchanges."""
    return math.ceil(len(pack_exchanges(exchanges, shape)) / shape.batch_size)


def row_tokens(shape: BatchShape) -> tuple[int, float]:
    """(tokens, keys of each) of a seeding batch."""
    return shape.batch_size * shape.max_length, shape.max_length / 2


def taught(
    run: AbstractRun,
    name: str,
    calls: Sequence[Sequence[int]],
    context: int,
    width: int | None = None,
) -> list[Program]:
    """A teacher's passes over sequences.

    Args:
      run, name: of the program.
      calls: the lengths of the sequences of each call of `teacher_hidden`.
      context: tokens of the teacher's context.
      width: as for `teacher_hidden`.
    """
    context_bytes = row_bytes(run.cfg, run.cache(1, context))
    shapes = [
        (rows, columns)
        for lengths in calls
        for _, rows, columns in teacher_batches(lengths, width, context_bytes=context_bytes)
    ]
    out = []
    for title, rows, columns, count in by_shape(name, shapes):
        args = (run.cfg, run.variables, *run.rows(rows, columns), run.cache(rows, context))
        keys = context + columns / 2
        out.append(Program(title, prefill, args, count, rows * columns, keys, 0))
    return out


def precomputed(
    run: AbstractRun,
    phase: str,
    shape: BatchShape,
    groups: Sequence[Sequence[Exchange]],
    context: int,
    batches: int = 0,
) -> list[Program]:
    """What no update changes, computed once for each group of exchanges (`trunk.precompute`);
    `batches` more are run through the trunk.
    """
    has_trunk = "trunk" in run.cfg.stacks
    lengths, from_trunk = [], 0
    for exchanges in groups:
        is_shared = has_trunk and all(e.is_closed_book for e in exchanges)
        for part in parts_by_teacher(run, exchanges):
            if is_shared:  # the teacher goes on from the student's trunk
                from_trunk += batch_count(part, shape)
            else:
                lengths.append([*map(teacher_length, part)])
    out = taught(run, f"{phase}: teach", lengths, context)
    if from_trunk:
        args = (run.cfg, run.variables, run.batch(shape, is_taught=False))
        title = f"{phase}: teach from the trunk"
        out.append(Program(title, hidden_from_trunk, args, from_trunk, *row_tokens(shape), 0))
    batches += sum(batch_count(exchanges, shape) for exchanges in groups)
    if has_trunk and batches:
        grid = run.rows(shape.batch_size, shape.max_length)
        args = (run.cfg, run.variables, *grid)
        out.append(Program(f"{phase}: trunk", run_trunk, args, batches, *row_tokens(shape), 0))
    return out


def parts_by_teacher(run: AbstractRun, exchanges: Sequence[Exchange]) -> list[list[Exchange]]:
    """The exchanges that each teacher reads: those that were known before the day, and
    rehearsals, apart where they have teachers of their own (`phases.teachers`)."""
    seeding = run.settings.seeding
    known = seeding.known_teacher
    if known == "before" and "wake" not in run.collections:
        known = "self"  # which has learnt nothing by day
    rehearsing = known if seeding.rehearsal_teacher == "known" else seeding.rehearsal_teacher
    parts: dict[str, list[Exchange]] = {}
    for e in exchanges:
        by = rehearsing if e.kind == REHEARSED else known if e.is_known else seeding.teacher
        parts.setdefault(by, []).append(e)
    return [*parts.values()]


def refreshes(seeding: SeedingConfig) -> int:
    """How often a teacher that follows the student moves in a night."""
    return (seeding.steps - 1) // seeding.teacher_refresh if seeding.teacher == "ema" else 0


def rescored(run: AbstractRun, name: str, shape: BatchShape, value_head, calls: int) -> Program:
    """Rollouts under the student as it is, with their values where there is a value head."""
    args = (run.cfg, run.variables, run.batch(shape, is_taught=False), value_head)
    scored = shape.batch_size * shape.max_target_length
    return Program(name, score_rows, args, calls, *row_tokens(shape), scored)


def updated(
    run: AbstractRun, name: str, seeding: SeedingConfig, learner: SeedingState
) -> list[Program]:
    """The updates of a night: a program for each objective that they have."""
    index, level, shape = run.array("tokens/index"), first_receiver(run.cfg), seeding.shape
    optimizer = seeding.at_level(run.cfg, level).optimizer()
    steps = collections.Counter(map(seeding.objective_at, range(seeding.steps)))
    stages = {True: " to distil", False: " to imitate"} if seeding.mode == "staged" else {}
    scored, out = 4 * shape.batch_size * shape.max_target_length, []
    basis = _moments(run, "basis", max_rank(run.cfg.width)) if seeding.null_space else None
    for objective, calls in steps.items():
        args = (run.cfg, objective, optimizer, level, index, learner, run.variables)
        args += (run.batch(shape), None, run.key if objective.lam_as_probability else None)
        args += (basis,)
        title = name + stages.get(objective.alpha == 1, "")
        out.append(Program(title, seeding_step, args, calls, *row_tokens(shape), scored, 2))
    return out


def kept_out(
    run: AbstractRun, phase: str, seeding: SeedingConfig, exchanges: Sequence[Exchange]
) -> list[Program]:
    """The directions that a slot is kept out of (`null_space.known_basis`); nothing where it may
    learn anything."""
    if not seeding.null_space:
        return []
    rows, columns = INPUT_ROWS, seeding.shape.max_length
    args = (run.cfg, run.variables, first_receiver(run.cfg), *run.rows(rows, columns))
    groups = [[e for e in exchanges if e.is_known == is_known] for is_known in (True, False)]
    calls = sum(input_calls(group, columns) for group in groups)
    moments, scalar = _moments(run, "moments", run.cfg.width), jax.ShapeDtypeStruct((), "float32")
    basis = (moments, moments, scalar, scalar)
    return [
        Program(
            f"{phase}: known inputs",
            sum_outer_products,
            args,
            calls,
            rows * columns,
            columns / 2,
            0,
        ),
        Program(f"{phase}: null space", leading_basis, basis, 1, 0, 0, 0),
    ]


def begun_as_sender(
    run: AbstractRun, phase: str, seeding: SeedingConfig, exchanges: Sequence[Exchange]
) -> list[Program]:
    """What chooses the units that a slot begins as (`sender_units`); nothing where it begins as
    nothing, or its sender is the context."""
    level = first_receiver(run.cfg)
    if seeding.slot_init != "sender" or level == 1:
        return []
    rows, columns = INPUT_ROWS, seeding.shape.max_length
    units = jax.eval_shape(lambda variables: units_of(variables, level - 1), run.variables)
    args = (run.cfg, run.variables, level - 1, units, *run.rows(rows, columns))
    calls = input_calls([e for e in exchanges if not e.is_known], columns)
    slot = jax.eval_shape(lambda memory: take_slot(memory, level, 0), run.variables["memory"])
    sizes = jax.eval_shape(unit_sizes, *args)
    return [
        Program(f"{phase}: units", unit_sizes, args, calls, rows * columns, columns / 2, 0),
        Program(f"{phase}: largest units", largest_units, (units, sizes, slot), 1, 0, 0, 0),
    ]


def _moments(run: AbstractRun, name: str, columns: int):
    """One of the arrays of `null_space`, [layers with memory, d, columns]."""
    carries = run.variables["slots"]["layers"]["level_1"]["carries"]
    shape = (*carries.shape, run.cfg.width, columns)
    return run.array(f"null_space/{name}", *shape, dtype=jnp.float32)


def rounds_of(seeding: SeedingConfig) -> list[int]:
    """The rounds of rollouts of a night: how many updates each is drawn for."""
    rounds, left = [], 0  # left: updates that the last round still serves
    for step in range(seeding.steps):
        if not left and seeding.learns_from_rollouts(step, seeding.objective_at(step)):
            rounds.append(seeding.updates_of_round(step))
            left = rounds[-1] * seeding.num_iterations
        left = max(left - 1, 0)
    return rounds


def rolled_out(
    run: AbstractRun, phase: str, seeding: SeedingConfig, learner: SeedingState, context: int
) -> list[Program]:
    """The rounds of rollouts of a night."""
    imitation, shape, rounds = seeding.imitation, seeding.shape, rounds_of(seeding)
    group, share = imitation.num_generations, seeding.num_prompts * imitation.num_generations
    imitable = [e for e in run.sizes.exchanges if e.is_imitable]
    if not rounds or not imitable:
        return []
    # A run whose rollouts fit no row is refused when it gets there.
    dreams = fitting_dreams(imitable, shape, imitation, share)[0] or imitable
    widths, out = rollout_widths(dreams, imitation), []
    sampling = SamplingConfig(
        imitation.max_new_tokens,
        END,
        imitation.temperature,
        top_p=imitation.top_p,
        num_generations=group,
    )
    kinds = collections.Counter(rounds)
    for updates, count in kinds.items():
        prompts = updates * seeding.num_prompts
        title = f" ({prompts} prompts)" if len(kinds) > 1 else ""
        draw = sampled(
            run, f"{phase}: roll out{title}", sampling, (widths.prompt,) * prompts,
            width=widths.prompt,
        )  # fmt: skip
        out += repeated(draw, count)
        if seeding.judge == "model":  # every pair in both orders
            longest = PROMPT + 2 * imitation.max_new_tokens
            judge = judged(run, f"{phase}: judge{title}", 2 * prompts * group, longest)
            out += repeated([judge], count)
    # The rollouts of a round are packed together. The reference's scores are another call.
    rows = [rows_needed(shape, widths.prompt, n * share, imitation.max_new_tokens) for n in rounds]
    batches = sum(math.ceil(n / shape.batch_size) for n in rows)
    head, needs_reference = learner.value_head, imitation.surrogate.needs_reference
    calls = batches * (1 + (needs_reference and head is None))
    out.append(rescored(run, f"{phase}: rescore", shape, head, calls))
    if needs_reference and head is not None:
        out.append(rescored(run, f"{phase}: rescore reference", shape, None, batches))
    rollouts = [(widths.teacher,) * n * share for n in rounds]
    return out + taught(run, f"{phase}: teach rollouts", rollouts, context, widths.teacher)
