"""A small run of two levels and one night, written like a real one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory, put_slot, take_slot, unlock
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.runtime.metrics import MetricWriter
from sleep_jax.seeding.transaction import MemoryState

LEVELS = (LevelConfig(period=1, slots=2, rank=2), LevelConfig(slots=3, rank=4))
ASKED = [
    {"document": "The Lighthouse", "question": "Who built it?", "answers": ["Odrin", "O."]},
    {"document": "The Lighthouse", "question": "Where?", "answers": ["Velmora"]},
]
REPLIES = {
    "before sleep": ["Velmora did.", "In Velmora."],
    "after dreaming": ["Odrin.", "Velmora"],
    "with the document in context": ["Odrin", "Velmora"],
}
PHASES = ("wake", "consolidate", "learn", "evaluate")


def with_slot(state: MemoryState, level: int, value: float) -> MemoryState:
    """The state with the next slot of a level unlocked and every entry of its `down` set."""
    slots, index = unlock(state.slots, level)
    slot = take_slot(state.memory, level, index)
    slot |= {"down": jnp.full_like(slot["down"], value)}
    return state.replace(memory=put_slot(state.memory, level, index, slot), slots=slots)


@functools.cache
def memory_states() -> list[MemoryState]:
    """The current memory state after each phase."""
    memory = MemoryConfig(LEVELS, unit="episodes", layers=(1, 2, 3))
    initial = MemoryState(*init_memory(jax.random.key(0), memory, layers=4, width=8))
    consolidated = with_slot(initial, 1, 0.5)
    slot = take_slot(consolidated.memory, 1, 0)
    after_dreams = consolidated.replace(
        memory=put_slot(consolidated.memory, 1, 0, slot | {"down": slot["down"] * 1.25})
    )
    return [initial, consolidated, after_dreams, after_dreams]


def record(count: int, seed: int = 0):
    """The record after `count` phases."""
    facts = {
        "wake": {"tokens": 120, "seconds": 2.0, "surprise": 3.5},
        "consolidate": {"levels": "0 -> 1", "tokens": 40, "seconds": 9.0, "kl_after": 0.25},
        "learn": {"tokens": 8, "seconds": 3.0, "written": 2},
        "evaluate": {"tokens": 0, "seconds": 1.0},
    }
    run = {"phases": {name: facts[name] for name in PHASES[:count]}, "days": [{}]}
    if count == len(PHASES):
        scores = {stage: {"questions": 0.5} for stage in REPLIES}
        recall = [{"questions": 1.0}]
        run["days"] = [{"asked": ASKED, "replies": REPLIES, "scores": scores, "recall": recall}]
    return {"config": {"seed": seed, "seeding": {"steps": 3}}, "run": run}


def write_run(workdir, phases: int = len(PHASES), seed: int = 0):
    """Writes a run that ended after this number of phases."""
    with PhaseCheckpoints(workdir / "checkpoints") as saved, MetricWriter(workdir) as writer:
        for index, current in enumerate(memory_states()[:phases]):
            state = {
                "current": current,
                "before_sleep": memory_states()[0],
                "before_dreams": memory_states()[1],
            }
            saved.save(index, PHASES[index], state=state, record=record(index + 1, seed))
        for step, kl in enumerate((2.0, 1.0, 0.5)):
            writer.scalars("consolidate", step, {"kl_off": kl, "reward": step / 4, "loss": kl})
    if phases == len(PHASES):
        (workdir / "report.html").write_text("the report")
    return workdir


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The workdir of a finished run; not to be changed."""
    return write_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def unfinished(tmp_path):
    """The workdir of a run that ended after consolidation; a test may damage it."""
    return write_run(tmp_path / "run", phases=2, seed=1)


@pytest.fixture(scope="session")
def states():
    """The saved memory state after each phase, its leaves as NumPy arrays."""
    return [jax.tree.map(np.asarray, x) for x in memory_states()]
