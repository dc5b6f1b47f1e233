"""What is computed once: the trunk, and a teacher that goes on from it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory, put_slot, take_slot, unlock
from sleep_jax.models.decoder import Decoder, run_trunk
from sleep_jax.rl.algorithms import surrogate
from sleep_jax.seeding import consolidate, rollouts, trunk
from sleep_jax.seeding.imitation import ImitationConfig
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import (
    BatchShape,
    Exchange,
    Teacher,
    make_batch,
    pack_exchanges,
    teacher_hidden_by_batch,
)
from sleep_jax.seeding.sequences import teacher_hidden as hidden_of
from sleep_jax.seeding.step import init_state, seeding_step
from sleep_jax.seeding.trunk import precompute, trunk_states
from sleep_jax.wake.context import read

RNG = np.random.default_rng(0)
PREFIX, TRUNK = (3, 1), 5  # tokens that prompts begin with; layers without memory
SHAPE = BatchShape(batch_size=2, max_length=24, max_target_length=16, shared_prefix=PREFIX)
SGD = optax.sgd(1.0)


def tokens(n):
    return tuple(RNG.integers(3, 97, n).tolist())


def exchange(prompt, n, kind="answer", **facts):
    return Exchange(None, prompt, prompt, tokens(n), kind, **facts)


CLOSED_BOOK = [
    exchange((*PREFIX, *tokens(2)), 6),
    exchange(tokens(4), 1),
    exchange((*PREFIX, *tokens(1)), 7),
    exchange(PREFIX, 5),
    exchange(
        tokens(3),
        4,
        "rollout",
        on_policy=True,
        advantage=0.5,
        log_probs=np.full(4, -4.0),
        old_log_probs=np.full(4, -4.0),
    ),
]
EXCHANGES = [*CLOSED_BOOK, Exchange(0, tokens(3), tokens(4), tokens(5), "answer")]


@pytest.fixture(scope="module")
def deep(cfg):
    """Six layers, of which the last alone carries memory."""
    memory = MemoryConfig((LevelConfig(slots=3, rank=4),), layers=(TRUNK,))
    return cfg.replace(layers=TRUNK + 1, memory=memory)


@pytest.fixture(scope="module")
def teacher(deep):
    """With a nonzero slot 0, and a document of 6 tokens read."""
    rngs = {"params": jax.random.key(0), "memory": jax.random.key(1)}
    params = jax.jit(Decoder(deep).init)(rngs, np.zeros((1, 2), np.int32))["params"]
    memory, slots = init_memory(jax.random.key(2), deep.memory, layers=TRUNK + 1, width=32)
    slot = jax.tree.map(
        lambda x: jnp.asarray(RNG.normal(size=x.shape), x.dtype), take_slot(memory, 1, 0)
    )
    variables = {
        "params": params,
        "memory": put_slot(memory, 1, 0, slot),
        "slots": unlock(slots, 1)[0],
    }
    return Teacher(deep, variables, read(deep, variables, [tokens(6), ()])[0])


@pytest.fixture(scope="module")
def student(deep, teacher):
    """The same base with slot 0 in its initial form."""
    fresh, _ = init_memory(jax.random.key(5), deep.memory, layers=TRUNK + 1, width=32)
    return teacher.variables | {"memory": fresh}


def test_trunk_states_equal_those_of_each_sequence_alone(deep, student):
    got = trunk_states(deep, student, EXCHANGES, SHAPE)
    for e, states in zip(EXCHANGES, got):
        sequence = np.array([e.student + e.completion[:-1]])
        want = run_trunk(deep, student, sequence, np.ones_like(sequence))[0]
        np.testing.assert_allclose(states, want, rtol=0, atol=1e-5)
    assert (
        trunk_states(deep.replace(memory=MemoryConfig()), student, EXCHANGES, SHAPE) == [None] * 6
    )


@pytest.fixture(scope="module")
def batch(deep, student, teacher):
    chosen = EXCHANGES[:2] + EXCHANGES[4:]
    states = precompute(deep, student, [teacher], chosen, SHAPE)
    return make_batch(chosen, states, pack_exchanges(chosen, SHAPE), SHAPE)


@pytest.fixture
def run(deep):
    """(base, batch) -> (slot 0 after a step, metrics)."""

    def step(base, batch):
        objective = Objective(accumulate=2)
        state = init_state(jax.tree.map(jnp.array, take_slot(base["memory"], 1, 0)), SGD)
        state, metrics = seeding_step(deep, objective, SGD, 1, jnp.int32(0), state, base, batch)
        return state.slot, metrics

    return step


def test_seeding_step_from_the_trunk_equals_the_whole(student, batch, run):
    slot, metrics = run(student, batch)
    same, whole = run(student, batch.replace(trunk=None))
    assert metrics.keys() == whole.keys() and metrics["kl_off"] > 0.01 and metrics["kl_on"] > 0.01
    for name, value in whole.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    initial = take_slot(student["memory"], 1, 0)
    for name in slot:
        gradient, want = initial[name] - slot[name], initial[name] - same[name]
        np.testing.assert_allclose(gradient, want, rtol=1e-3, atol=1e-6)
    assert np.abs(initial["down"] - slot["down"]).max() > 1e-3

    # Nothing of the layers below the memory is read.
    nan = jax.tree.map(lambda x: x * np.nan, student["params"]["trunk"])
    again, figures = run(student | {"params": student["params"] | {"trunk": nan}}, batch)
    jax.tree.map(np.testing.assert_array_equal, (again, figures), (slot, metrics))


def test_seeding_step_runs_the_trunk_once_and_never_backward(deep, student, batch, operations):
    """Its layers are scanned: a scan of their number is a pass through it."""
    state = init_state(take_slot(student["memory"], 1, 0), SGD)

    def passes(batch):
        def step(state, base, batch):
            return seeding_step(deep, Objective(), SGD, 1, jnp.int32(0), state, base, batch)

        scans = [
            x.params for x in operations(step, state, student, batch) if x.primitive.name == "scan"
        ]
        return [(x["length"], x["reverse"]) for x in scans if x["length"] in (1, TRUNK)]

    upper = passes(batch)
    assert all(length == 1 for length, _ in upper) and (1, True) in upper
    assert sorted(passes(batch.replace(trunk=None))) == sorted([*upper, (TRUNK, False)])


def test_precompute_reuses_the_trunk_for_closed_book_exchanges(deep, student, teacher, monkeypatch):
    read_again = []

    def hidden(*given, **options):
        read_again.append(given)
        return teacher_hidden_by_batch(*given, **options)

    monkeypatch.setattr(trunk, "teacher_hidden_by_batch", hidden)

    def differs(teachers, exchanges, student=student):
        """Whether a teacher's own pass was needed."""
        read_again.clear()
        got = precompute(deep, student, teachers, exchanges, SHAPE)
        each = [hidden_of(deep, t.variables, t.context, exchanges) for t in teachers]
        for states, *want in zip(got, *each):
            np.testing.assert_allclose(states.teacher, np.concatenate(want, -1), rtol=0, atol=2e-5)
            assert states.trunk is not None
        return bool(read_again)

    other = dataclasses.replace(teacher, variables=student)
    assert not differs([teacher], CLOSED_BOOK) and not differs([teacher, other], CLOSED_BOOK)
    assert differs([teacher], EXCHANGES)
    # Asked otherwise, or over another base.
    asked = dataclasses.replace(CLOSED_BOOK[0], teacher=tokens(4))
    assert differs([teacher], [asked, *CLOSED_BOOK[1:]])
    copied = jax.tree.map(jnp.array, student["params"])
    assert differs([teacher], CLOSED_BOOK, student | {"params": copied})


@pytest.mark.slow
def test_seed_slot_from_the_trunk_equals_the_whole(deep, student, teacher, tokenizer, monkeypatch):
    """With rollouts that are scored by the student as it is and as it was, twice used."""
    policy = surrogate("group", kl_estimator="k2", kl_coef=0.1, importance_cap=2.0)
    seeding = SeedingConfig(
        steps=4,
        learning_rate=0.02,
        warmup=0,
        shape=SHAPE,
        num_prompts=1,
        steps_per_generation=2,
        rollout_start=0.0,
        objective=Objective(surrogate=policy),
        imitation=ImitationConfig(num_generations=2, max_new_tokens=4, surrogate=policy),
        num_iterations=2,
    )

    def night():
        log = []
        consolidate.seed_slot(
            deep,
            tokenizer,
            lambda candidates, _: np.array([len(c) % 2 for c in candidates], np.float32),
            seeding,
            student=student,
            teachers=[teacher],
            level=1,
            index=0,
            exchanges=CLOSED_BOOK[:4],
            rng=jax.random.key(0),
            log=lambda _, figures: log.append(figures),
        )
        return log

    from_trunk = night()
    for module in (trunk, rollouts):
        monkeypatch.setattr(module, "trunk_states", lambda *given: [None] * len(given[2]))
    monkeypatch.setattr(
        Exchange, "is_closed_book", property(lambda self: False)
    )  # the teacher reads again
    for got, want in zip(from_trunk, night(), strict=True):
        assert got.keys() == want.keys() and got["kl_on"] > 0
        for name in (name for name, value in want.items() if isinstance(value, float)):
            np.testing.assert_allclose(got[name], want[name], rtol=1e-3, atol=1e-5, err_msg=name)
