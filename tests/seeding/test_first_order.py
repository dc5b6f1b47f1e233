"""What a night can do to first order: the automatic rate, the gradient, the bound and its check."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sample_exchanges import EXCHANGES, SHAPE, tokens

from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import put_slot, take_slot, unlock
from sleep_jax.seeding import consolidate
from sleep_jax.seeding.consolidate import mean_divergence, run_consolidation, seed_slot
from sleep_jax.seeding.first_order import (
    FirstOrderBound,
    OutOfReach,
    check_reach,
    divergence_alone,
    first_gradient,
)
from sleep_jax.seeding.gate import Gate
from sleep_jax.seeding.objective import objective_terms
from sleep_jax.seeding.seeding_config import SeedingConfig, automatic_rate
from sleep_jax.seeding.sequences import Teacher, batches
from sleep_jax.seeding.transaction import MemoryState, Transaction
from sleep_jax.seeding.trunk import precompute
from sleep_jax.setting import AUTO
from sleep_jax.wake.context import read


def seeding(**changes):
    settings = {"steps": 1, "warmup": 0, "shape": SHAPE, "num_prompts": 0, "learning_rate": 1e-3}
    return SeedingConfig(**settings | changes)


@pytest.fixture(scope="module")
def student(variables):
    """A new slot 0."""
    return variables | {"slots": unlock(variables["slots"], 1)[0]}


@pytest.fixture(scope="module")
def teachers(cfg, trained):
    """Other slots, and documents in view."""
    return [Teacher(cfg, trained, read(cfg, trained, [tokens(12), tokens(5), ()])[0])]


@pytest.fixture(scope="module")
def states(cfg, student, teachers):
    return precompute(cfg, student, teachers, EXCHANGES, SHAPE)


@pytest.fixture(scope="module")
def gradient(cfg, student, teachers, states):
    return first_gradient(cfg, student, 1, 0, EXCHANGES, states, teachers, seeding())


def test_automatic_rate_follows_rank_and_width_of_the_level(cfg):
    """1e-2 at rank 16 and width 576; at rank 64 and width 4096, 64 / 3 times rank times width of
    that, so 1e-2 * sqrt(9216 / 262144) = 1.875e-3."""
    memory = MemoryConfig((LevelConfig(1, 5, 16), LevelConfig(0, 5, 64)))
    assert automatic_rate(cfg.replace(width=576, memory=memory), 1) == pytest.approx(1e-2)
    large = cfg.replace(width=4096, memory=memory)
    assert automatic_rate(large, 2) == pytest.approx(1.875e-3)
    night = seeding(learning_rate=AUTO)
    assert night.at_level(large, 2) == seeding(learning_rate=automatic_rate(large, 2))
    assert seeding().at_level(large, 2) == seeding()


def test_distance_is_the_sum_of_the_rates():
    """Without a warm-up a cosine from the peak to a tenth: 1, 0.775, 0.325 of it."""
    assert seeding(steps=3, learning_rate=0.2).distance == pytest.approx(0.2 * 2.1)


def test_first_gradient_is_that_of_the_mean_divergence(cfg, student, teachers, states, gradient):
    slot = take_slot(student["memory"], 1, 0)

    def total(down, batch):
        memory = put_slot(student["memory"], 1, 0, slot | {"down": down})
        terms = objective_terms(
            cfg, divergence_alone(seeding()), student | {"memory": memory}, batch
        )
        return terms[0]["kl_off"]

    grads = jax.jit(jax.grad(total, has_aux=True))
    parts = [grads(slot["down"], batch) for _, batch in batches(EXCHANGES, states, SHAPE)]
    assert len(parts) > 1
    want = sum(g for g, _ in parts) / sum(n for _, n in parts)
    np.testing.assert_allclose(gradient["down"], want, atol=1e-6)
    assert jnp.abs(want).max() > 1e-3
    assert not gradient["gate"].any() and not gradient["up"].any()


def test_short_night_lowers_the_divergence_by_the_bound(
    cfg, tokenizer, student, teachers, states, gradient
):
    """One small update on what is measured follows the gradient's sign: rate times |g|_1."""
    [exchange], [state], rate = EXCHANGES[:1], states[:1], 1e-4
    config = seeding(learning_rate=rate)
    config = dataclasses.replace(config, objective=divergence_alone(config))

    def measured(variables):
        return mean_divergence(cfg, variables, [exchange], [state], teachers, SHAPE)

    before = measured(student)
    seeded = seed_slot(
        cfg,
        tokenizer,
        None,
        config,
        student=student,
        teachers=teachers,
        level=1,
        index=0,
        exchanges=[exchange],
        rng=jax.random.key(0),
        log=lambda step, figures: None,
    )
    alone = first_gradient(cfg, student, 1, 0, [exchange], [state], teachers, config)
    norm = float(optax.tree.norm(alone, ord=1))
    bound = FirstOrderBound(before, norm, config.distance)
    assert norm == pytest.approx(sum(float(jnp.abs(x).sum()) for x in alone.values()), rel=1e-5)
    assert (before - measured(seeded)) / before == pytest.approx(bound.share, rel=0.1)


def test_bound_is_distance_times_gradient_over_divergence():
    assert FirstOrderBound(divergence=0.5, gradient_norm=4.0, distance=0.1).share == 0.8


@pytest.mark.parametrize(
    ("norm", "automatic", "remedy"),
    [
        # The bound is 1.5 %, the gate asks for 20 %, so 13 times the rate would do.
        (1.5, 2e-2, r"set seeding\.learning_rate='auto' \(0\.02 here\), or accept"),
        (1.5, 1.1e-3, r"set seeding\.learning_rate=0\.013, or raise seeding\.steps, or accept"),
        (0.0, 2e-2, r"no gradient: no token passes through it, or accept any night with gate\.div"),
    ],
)
def test_night_out_of_reach_is_refused_with_the_remedy(norm, automatic, remedy):
    bound = FirstOrderBound(divergence=1.0, gradient_norm=norm, distance=1e-2)
    says = r"seeding\.learning_rate=0\.001 over 1 updates can lower "
    says += rf".* by {norm:.2f}% to first order.*20%"
    with pytest.raises(OutOfReach, match=f"{says}; .*{remedy}"):
        check_reach(bound, seeding(), Gate(divergence=0.8), automatic)


def test_night_within_a_tenth_of_what_the_gate_asks_is_begun():
    bound = FirstOrderBound(divergence=1.0, gradient_norm=1.0, distance=0.021)
    check_reach(bound, seeding(), Gate(divergence=0.8), 1e-2)


def test_consolidation_out_of_reach_is_refused_before_an_update(
    cfg, tokenizer, student, teachers, monkeypatch
):
    state = MemoryState(student["memory"], student["slots"])

    def night(rate, divergence):
        return run_consolidation(
            cfg,
            student["params"],
            tokenizer,
            None,
            seeding(learning_rate=rate),
            Gate(divergence=divergence, anchors=math.inf),
            Transaction(state, state, state, level=1, index=0),
            teachers=teachers,
            exchanges=EXCHANGES,
            probe=EXCHANGES,
            anchors=lambda variables: 1.0,
            rng=jax.random.key(0),
            log=lambda step, figures: logged.append(figures),
        )

    logged = []
    monkeypatch.setattr(consolidate, "seed_slot", lambda *_, student, **__: student)
    with pytest.raises(OutOfReach, match=r"^seeding\.learning_rate=1e-08 over 1 updates can lower"):
        night(1e-8, 0.8)
    assert not logged
    assert night(AUTO, 0.8)[1]["first_order_fall"] > 0.02
    monkeypatch.setattr(consolidate, "first_gradient", None)  # to call it would be an error
    assert "first_order_fall" not in night(1e-8, math.inf)[1]
