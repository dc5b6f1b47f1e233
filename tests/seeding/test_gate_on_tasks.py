"""A consolidation whose gate watches tasks."""

import math

import jax
import numpy as np
import pytest

from sleep_jax.memory.slots import take_slot, unlock
from sleep_jax.seeding import consolidate
from sleep_jax.seeding.gate import Gate
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import BatchShape, Exchange, Teacher
from sleep_jax.seeding.transaction import MemoryState, Transaction
from sleep_jax.wake.context import read

SHAPE = BatchShape(max_length=16, max_target_length=12)
EXCHANGES = [Exchange(None, (5, 6), (5, 6), (7, 8, 9), "rehearse")]


@pytest.mark.parametrize(("limit", "is_kept"), [(0.1, False), (0.3, True), (math.inf, True)])
def test_night_is_rolled_back_where_a_task_fell(
    cfg, variables, trained, tokenizer, monkeypatch, limit, is_kept
):
    before = MemoryState(variables["memory"], variables["slots"])
    student = before.replace(slots=unlock(variables["slots"], 1)[0])
    seeded = student.variables(variables["params"]) | {"memory": trained["memory"]}
    monkeypatch.setattr(consolidate, "seed_slot", lambda *_, **__: seeded)
    asked = []

    def task_falls(*models):
        asked.extend(models)
        return {"a": 0.2, "b": -0.5}

    state, figures = consolidate.run_consolidation(
        cfg,
        variables["params"],
        tokenizer,
        None,
        SeedingConfig(shape=SHAPE),
        Gate(divergence=math.inf, anchors=math.inf, tasks=limit),
        Transaction(before, student, student, level=1, index=0),
        teachers=[Teacher(cfg, trained, read(cfg, trained, [()])[0])],
        exchanges=EXCHANGES,
        probe=EXCHANGES,
        anchors=lambda variables: 1.0,
        rng=jax.random.key(0),
        log=lambda step, figures: None,
        task_falls=task_falls if math.isfinite(limit) else None,
    )
    assert ("rolled_back" in figures) == (not is_kept)
    if math.isfinite(limit):
        assert (figures["fall_a"], figures["fall_b"]) == (0.2, -0.5)
        assert [np.asarray(x["slots"]["layers"]["level_1"]["active"]).any() for x in asked] == [
            False, True,
        ]  # fmt: skip
    if is_kept:
        slots = (take_slot(memory, 1, 0) for memory in (state.memory, trained["memory"]))
        jax.tree.map(np.testing.assert_array_equal, *slots)
    else:
        assert state is before and "gate.tasks=0.1" in figures["rolled_back"]
