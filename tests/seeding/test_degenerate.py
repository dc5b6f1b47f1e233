"""Degenerate input to seeding: defined results or clear errors, and no NaN in slot or optimizer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sleep_jax.memory.slots import init_memory, put_slot, take_slot, unlock
from sleep_jax.seeding.consolidate import run_consolidation, seed_slot
from sleep_jax.seeding.gate import Gate
from sleep_jax.seeding.imitation import ImitationConfig
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import BatchShape, Exchange, Teacher, make_batch, pack_exchanges
from sleep_jax.seeding.step import init_state, seeding_step
from sleep_jax.seeding.transaction import MemoryState, TeacherIsStudent, Transaction
from sleep_jax.seeding.trunk import precompute
from sleep_jax.seeding.update_log import NotFinite
from sleep_jax.wake.context import read

RNG = np.random.default_rng(0)
SHAPE = BatchShape(batch_size=2, max_length=24, max_target_length=16)
ADAM = optax.adam(0.02)


def tokens(n):
    return tuple(RNG.integers(3, 97, n).tolist())


def rollout(n, advantage):
    scored = {name: np.full(n, -4.0) for name in ("log_probs", "old_log_probs")}
    return Exchange(None, tokens(3), tokens(3), tokens(n), "rollout", True, advantage, **scored)


EXCHANGES = [
    Exchange(0, tokens(3), tokens(4), tokens(8), "answer"),
    Exchange(1, tokens(3), tokens(4), tokens(6), "recite"),
    rollout(5, 0.5),
    rollout(4, -0.5),
]


@pytest.fixture(scope="module")
def teacher(cfg, trained):
    return Teacher(cfg, trained, read(cfg, trained, [tokens(12), tokens(5), ()])[0])


@pytest.fixture(scope="module")
def batch(cfg, trained, teacher):
    states = precompute(cfg, trained, [teacher], EXCHANGES, SHAPE)
    return make_batch(EXCHANGES, states, pack_exchanges(EXCHANGES, SHAPE), SHAPE)


@pytest.fixture(scope="module")
def student(cfg, trained):
    """The trained model with an initial slot 1."""
    fresh, _ = init_memory(jax.random.key(5), cfg.memory, layers=2, width=32)
    return trained | {"memory": put_slot(trained["memory"], 1, 1, take_slot(fresh, 1, 1))}


@pytest.fixture
def advance(cfg, student):
    """(batch, state=initial, base) -> (state, metrics), all as NumPy."""

    def step(batch, state=None, base=student):
        state = init_state(take_slot(student["memory"], 1, 1), ADAM) if state is None else state
        state = jax.tree.map(jnp.array, state)  # it is donated
        out = seeding_step(cfg, Objective(), ADAM, 1, jnp.int32(1), state, base, batch)
        return jax.tree.map(np.asarray, out)

    return step


def damaged(student, batch, how):
    """(base, batch) whose logits are not finite."""
    match how:
        case "a teacher's state is NaN":
            return student, batch.replace(teacher=np.full_like(batch.teacher, np.nan))
        case "a teacher's logits are inf":
            teacher = batch.teacher.copy()
            teacher[0, 0] = np.inf
            return student, batch.replace(teacher=teacher)
        case "the student's logits are inf":
            norm = {"scale": student["params"]["final_norm"]["scale"].at[0].set(jnp.inf)}
            return student | {"params": student["params"] | {"final_norm": norm}}, batch
        case "an advantage is NaN":
            return student, batch.replace(advantages=np.full_like(batch.advantages, np.nan))


@pytest.mark.parametrize(
    "how",
    [
        "a teacher's state is NaN",
        "a teacher's logits are inf",
        "the student's logits are inf",
        "an advantage is NaN",
    ],
)
def test_non_finite_update_is_skipped_and_counted(student, batch, advance, how):
    before, metrics = advance(batch)
    assert metrics["skipped"] == 0
    base, bad = damaged(student, batch, how)
    after, metrics = advance(bad, before, base)
    assert metrics["skipped"] == 1
    for part in ("slot", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, part), getattr(before, part))
    healed, metrics = advance(batch, after)
    assert metrics["skipped"] == 0 and (healed.slot["down"] != before.slot["down"]).any()
    # As if the bad update had not happened.
    jax.tree.map(np.testing.assert_array_equal, healed.slot, advance(batch, before)[0].slot)


def test_update_on_padding_alone_is_0(batch, advance):
    before, _ = advance(batch)
    empty = jax.tree.map(np.zeros_like, batch)
    fresh, metrics = advance(empty)
    assert metrics["loss"] == metrics["gradient_norm"] == metrics["skipped"] == 0
    untouched, _ = advance(empty, jax.tree.map(np.zeros_like, before))
    assert all(not x.any() for x in jax.tree.leaves(untouched.slot))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(fresh))


def test_update_with_tied_rewards_equals_update_without_rewards(batch, advance):
    tied, _ = advance(batch.replace(advantages=np.zeros_like(batch.advantages)))
    dropped, metrics = advance(batch.replace(rewarded=np.zeros_like(batch.rewarded)))
    jax.tree.map(np.testing.assert_array_equal, tied.slot, dropped.slot)
    assert metrics["policy_loss"] == 0 and metrics["gradient_norm"] > 0


def test_empty_completion_equals_an_absent_one(cfg, trained, teacher):
    # Its prompt fills a row to the last token, in both views.
    empty = Exchange(
        0, tokens(SHAPE.max_length), tokens(SHAPE.max_length), (), "rollout", True, 1.0
    )
    both = [*EXCHANGES[:1], empty]
    states, without = (precompute(cfg, trained, [teacher], x, SHAPE) for x in (both, both[:1]))
    assert states[1].teacher.shape == (0, 32)
    np.testing.assert_allclose(states[0].teacher, without[0].teacher, atol=1e-5)
    rows = pack_exchanges(both, SHAPE)
    assert len(rows) == 2
    batch = make_batch(both, states, rows, SHAPE)
    assert batch.mask.sum() == 8 and not batch.rewarded.any()


def seeding(**changes):
    settings = {
        "steps": 3,
        "learning_rate": 0.02,
        "warmup": 0,
        "shape": SHAPE,
        "num_prompts": 1,
        "steps_per_generation": 1,
        "rollout_start": 0.0,
        "objective": Objective(),
        "imitation": ImitationConfig(num_generations=2, max_new_tokens=4),
    }
    return SeedingConfig(**settings | changes)


@pytest.fixture
def night(cfg, tokenizer, variables, teacher):
    """(judge, seeding, exchanges) -> (collections after a night, its log)."""
    slots, index = unlock(variables["slots"], 1)

    def run(judge, seeding, exchanges, log):
        return seed_slot(
            cfg,
            tokenizer,
            judge,
            seeding,
            student=variables | {"slots": slots},
            teachers=[teacher],
            level=1,
            index=index,
            exchanges=exchanges,
            rng=jax.random.key(0),
            log=lambda step, metrics: log.append(metrics),
        )

    return run


@pytest.mark.slow
def test_seed_slot_raises_after_too_many_non_finite_updates(variables, night):
    before, log = jax.tree.map(np.array, variables), []

    def nan_judge(candidates, references):
        return np.full(len(candidates), np.nan, np.float32)

    with pytest.raises(NotFinite, match=r"update 1 is number 2 in a row.*lower seeding.learning_"):
        night(nan_judge, seeding(max_consecutive_errors=1), EXCHANGES[:2], log)
    assert [metrics["skipped"] for metrics in log] == [1, 1]
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    with pytest.raises(
        ValueError, match=r"seeding.max_consecutive_errors=-1; give a whole number at least 0"
    ):
        seeding(max_consecutive_errors=-1)


@pytest.mark.slow
def test_seed_slot_with_references_of_one_token(night):
    log = []
    short = [dataclasses.replace(e, completion=e.completion[:2]) for e in EXCHANGES[:2]]

    def judge(candidates, references):
        assert all(len(r) <= 1 for r in references)
        return np.ones(len(candidates), np.float32)

    got = night(judge, seeding(), short, log)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(take_slot(got["memory"], 1, 0)))
    assert [metrics["skipped"] for metrics in log] == [0, 0, 0]


def test_seed_slot_rejects_empty_completions(night):
    for empty in ([], [dataclasses.replace(EXCHANGES[0], completion=())]):
        with pytest.raises(ValueError, match=f"{len(empty)} sequences to learn from, all of the"):
            night(lambda *_: None, seeding(), empty, [])


@pytest.mark.parametrize(
    "weight, error, message",
    [
        (1.0, TeacherIsStudent, "nothing to consolidate into level 1"),
        (np.nan, NotFinite, "diverge by nan nats a token before the night of level 1"),
    ],
)
def test_run_consolidation_rejects_a_divergence_of_0_or_nan(
    cfg, tokenizer, trained, weight, error, message
):
    """The teacher is the student, or its weights are NaN."""
    state = MemoryState(trained["memory"], trained["slots"])
    memory = jax.tree.map(lambda x: x * weight, trained["memory"])
    variables = trained | {"memory": memory}
    teacher = Teacher(cfg, variables, read(cfg, variables, [()])[0])
    prompt = tokens(4)
    exchanges = [Exchange(None, prompt, prompt, tokens(6), "rehearse")]
    with pytest.raises(error, match=message):
        run_consolidation(
            cfg,
            trained["params"],
            tokenizer,
            None,
            seeding(),
            Gate(),
            Transaction(state, state, state, level=1, index=2),
            teachers=[teacher],
            exchanges=exchanges,
            probe=exchanges,
            anchors=None,
            rng=jax.random.key(0),
            log=None,
        )
