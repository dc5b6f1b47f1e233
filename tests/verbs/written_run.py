"""Runs of the tiny model with several days, written without their nights: every slot is random."""

import jax
import numpy as np
from tiny_run import tiny_config

from sleep_jax.config import read
from sleep_jax.evals.recall import greedy_replies
from sleep_jax.experiment import load_base
from sleep_jax.lifecycle import init_run_state
from sleep_jax.memory.slots import put_slot, take_slot, unlock
from sleep_jax.phases.run_state import RunState
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.seeding.transaction import MemoryState
from sleep_jax.study.questions import SelfQuestion
from sleep_jax.study.self_study import Study
from sleep_jax.verbs.saved_run import SavedRun, saved_config


def learnt(state: MemoryState, seed: int) -> MemoryState:
    """The state with the next slot of level 1 unlocked, and random weights in it."""
    slots, index = unlock(state.slots, 1)
    slot = take_slot(state.memory, 1, index)
    down = np.random.default_rng(seed).normal(size=slot["down"].shape).astype(np.float32)
    memory = put_slot(state.memory, 1, index, slot | {"down": down})
    return state.replace(memory=memory, slots=slots)


def label(phase: str, day: int) -> str:
    """The label of a phase on a day, from 0."""
    return phase if day == 0 else f"{phase}-{day + 1}"


class Life:
    """Writes a run of several days, phase by phase.

    Attributes:
      experiment: without documents.
      states: the memory after each day.
    """

    def __init__(self, workdir, slots: int = 3):
        config = tiny_config()
        config.memory.slots = (slots,)
        config.evaluation.own_questions = 2
        self.workdir, self.config = workdir, config
        cfg, params, tokenizer = load_base(config, read(config))
        nothing = MemoryState(None, None)
        saved = SavedRun(
            "", "", saved_config(config.to_dict()), {}, nothing, cfg, params, tokenizer
        )
        self.experiment = saved.experiment()
        self.run = init_run_state(self.experiment)
        self.states: list[MemoryState] = []
        self._count = 0

    def live(self, days: int) -> "Life":
        """Writes these days; on each, two own questions are answered by the slot of the day."""
        for day in range(days):
            self._save(label("wake", day), tokens=4)
            before, current = self.run.current, learnt(self.run.current, day)
            self.run = RunState(current, before, current, self.run.record)
            self.run = self.run.note_day(day, slot=day, study=self._study(current, day))
            self.run = self.run.note_day(day, own_open_book=[True, True])
            self._save(label("consolidate", day), levels="0 -> 1")
            asked = [{"document": f"Page {day + 1}", "question": "Who?", "answers": ["x"]}]
            stages = {"before sleep": ["y"], "after consolidation": ["x"]}
            self.run = self.run.note_day(day, asked=asked, replies=stages, scores={})
            self._save(label("evaluate", day))
            self.states.append(self.run.current)
        return self

    def phase(self, name: str, **facts) -> None:
        """Writes one more phase."""
        self._save(name, **facts)

    def _study(self, state: MemoryState, day: int) -> dict:
        """Own questions whose answers are what the model says now."""
        words = [f"Question {day} {i}?" for i in "ab"]
        e = self.experiment
        prompts = [e.prompts.without_context(text) for text in words]
        replies = greedy_replies(
            e.cfg,
            jax.tree.map(np.asarray, state.variables(e.params)),
            e.tokenizer,
            prompts,
            max_new_tokens=e.settings.evaluation.max_new_tokens,
            batch=2,
        )
        questions = tuple(SelfQuestion(0, "", q, reply) for q, reply in zip(words, replies))
        return Study(questions, (), ()).to_record()

    def _save(self, name: str, **facts) -> None:
        self.run = self.run.note(name, seconds=1.0, **facts)
        record = {"config": self.config.to_dict(), "base": self.experiment.base}
        record |= {"reading": "0", "run": self.run.record}
        with PhaseCheckpoints(self.workdir / "checkpoints") as saved:
            saved.save(self._count, name, state=self.run.arrays, record=record)
        self._count += 1
