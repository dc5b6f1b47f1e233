"""A phase that samples keeps its place after every batch."""

import contextlib
import dataclasses
import runpy

import jax
import ml_collections
import numpy as np
import pytest
from articulate import articulate

from sleep_jax import lifecycle
from sleep_jax.experiment import load_experiment
from sleep_jax.phases import drafts
from sleep_jax.phases.drafts import Drafts, _completions, _record
from sleep_jax.phases.registry import PHASES
from sleep_jax.phases.run_state import PhaseLogger
from sleep_jax.phases.study import ask_again, studied, study
from sleep_jax.phases.write import write
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.runtime.metrics import MetricWriter
from sleep_jax.runtime.mid_phase import MidPhaseCheckpoint
from sleep_jax.runtime.preemption import Preempted
from sleep_jax.sampling import generate as sampling
from sleep_jax.sampling.generate import Completion
from sleep_jax.seeding.sequences import Teacher
from sleep_jax.study import questions
from sleep_jax.study.self_study import Study


class Impatient:
    """Asks to stop at every chance."""

    def should_stop(self):
        return True


def test_completions_are_restored_from_their_record_bitwise():
    scores = np.random.default_rng(0).normal(size=5).astype(np.float32)
    groups = [
        [Completion((3, 1, 70_000), scores[:3], True), Completion((2,), scores[3:4], False)],
        [Completion((9,), scores[4:], True)],
    ]
    back = _completions(_record(groups))
    assert [[(x.tokens, x.finished) for x in group] for group in back] == [
        [(x.tokens, x.finished) for x in group] for group in groups
    ]
    kept = np.concatenate([x.log_probs for group in back for x in group])
    assert kept.dtype == np.float32 and np.array_equal(kept, scores)
    assert _completions(_record([])) == []


@pytest.fixture(scope="module")
def experiment():
    """Questions, replies and dreams of several batches."""
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.data.documents = "samples:6"
    config.study.questions, config.study.rehearsals = 16, 3
    config.dreaming.num_generations, config.dreaming.temperature = 32, 1.5
    return load_experiment(config)


def test_study_stopped_after_every_batch_ends_with_the_same_bits(experiment, tmp_path, monkeypatch):
    # Whatever the random model writes passes for a question, so that all three calls have batches.
    monkeypatch.setattr(questions, "is_about", lambda *_: True)
    monkeypatch.setattr(questions, "ungrounded", lambda *_: False)
    scheduled = next(x for x in experiment.schedule if x.phase == "study")
    batches, sample = [], sampling.sample

    def counted(cfg, how, *rest):
        batches.append(how.num_generations)
        return sample(cfg, how, *rest)

    monkeypatch.setattr(sampling, "sample", counted)
    initial = lifecycle.init_run_state(experiment)
    with MetricWriter(tmp_path / "metrics") as writer:
        whole = study(experiment, initial, PhaseLogger(writer, "study", quiet=True), scheduled)
        drawn, stops = batches.copy(), []
        batches.clear()
        assert len({*drawn}) == 3 and all(drawn.count(group) > 1 for group in drawn)
        with PhaseCheckpoints(tmp_path / "mid_phase", keep=2) as saved:
            while True:
                mid_phase = MidPhaseCheckpoint(saved, "study", every=0, watch=Impatient())
                logger = PhaseLogger(writer, "study", quiet=True, mid_phase=mid_phase)
                try:
                    again = study(experiment, initial, logger, scheduled)
                    break
                except Preempted as stopped:
                    stops.append(stopped.where)
    assert stops == [f"{n} batches of study" for n in range(1, len(drawn) + 1)]
    assert batches == drawn  # none of them twice
    assert again.record == whole.record
    assert jax.tree.all(jax.tree.map(np.array_equal, again.arrays, whole.arrays))


def test_ask_again_draws_from_earlier_days_that_a_slot_holds(experiment):
    config = ml_collections.ConfigDict(experiment.config.to_dict())
    config.study.earlier_questions, config.study.earlier_answers = 9, "stored"
    stored = dataclasses.replace(experiment, config=ml_collections.FrozenConfigDict(config))
    run = lifecycle.init_run_state(experiment)
    for day in range(4):
        learnt = questions.SelfQuestion(0, "Text.", f"Which day, {day}?", f"Day {day}.")
        held_out = questions.SelfQuestion(0, "Text.", f"Held out, {day}?", f"Day {day}.")
        run = run.note_day(day, study=Study((held_out,), (learnt,), ()).to_record())
    for day in (0, 2, 3):  # the second night was rolled back
        run = run.note_day(day, slot=0)
    teacher = Teacher(stored.cfg, {}, None)
    asked = ask_again(stored, run, teacher, 3, jax.random.key(0))
    prompts = stored.prompts
    expected = {prompts.without_context(f"Which day, {day}?") for day in (0, 2)}
    assert len(asked) == 2 and {e.student for e in asked} == expected
    assert ask_again(stored, run, teacher, 0, jax.random.key(0)) == []
    assert ask_again(experiment, run, teacher, 3, jax.random.key(0)) == []  # by default none
    studied_then = run.note_day(3, study=Study((), (), (), tuple(asked)).to_record())
    assert studied(dataclasses.replace(stored, days=stored.days * 4), studied_then, 3)[-2:] == asked


def test_drafts_number_calls_by_their_order(monkeypatch):
    asked = []

    def generate(name, drawn, on_batch):
        asked.append((name, len(drawn)))
        drawn.append(name)
        on_batch()
        return drawn

    monkeypatch.setattr(drafts, "generate", generate)
    counts = []
    draw = Drafts(None, counts.append)
    assert draw("a") == ["a"] and draw("b") == ["b"]
    assert asked == [("a", 0), ("b", 0)] and counts == [1, 2]


@pytest.mark.parametrize("phase", ["study", "write"])
def test_run_stopped_in_a_sampling_phase_keeps_a_mid_phase_checkpoint(
    phase, experiment, tmp_path, monkeypatch
):
    def passed(experiment, run, logger, scheduled):
        run = run.note_day(scheduled.day, slot=0, study=Study((), (), ()).to_record())
        return run.note(scheduled.label)

    others = {n: dataclasses.replace(x, function=passed) for n, x in PHASES.items() if n != phase}
    monkeypatch.setattr(lifecycle, "PHASES", PHASES | others)
    stops = []
    while not stops or phase not in stops[-1]:
        with pytest.raises(Preempted) as stopped:
            lifecycle.run(experiment, str(tmp_path), quiet=True, watch=Impatient())
        stops.append(stopped.value.where)
    assert stops[-1] == f"1 batches of {phase}"


def test_write_stopped_after_its_first_batch_ends_with_the_same_bits(
    experiment, tmp_path, monkeypatch
):
    articulate(monkeypatch)
    scheduled = next(x for x in experiment.schedule if x.phase == "write")
    initial = lifecycle.init_run_state(experiment).note_day(
        0, slot=0, study=Study((), (), ()).to_record()
    )
    with (
        MetricWriter(tmp_path / "metrics") as writer,
        PhaseCheckpoints(tmp_path / "mid_phase", keep=2) as saved,
    ):
        whole = write(experiment, initial, PhaseLogger(writer, "write", quiet=True), scheduled)
        for watch in (Impatient(), None):
            mid_phase = MidPhaseCheckpoint(saved, "write", every=0, watch=watch)
            logger = PhaseLogger(writer, "write", quiet=True, mid_phase=mid_phase)
            with pytest.raises(Preempted) if watch else contextlib.nullcontext() as stopped:
                again = write(experiment, initial, logger, scheduled)
            assert watch is None or stopped.value.where == "1 batches of write"
    assert whole.day(0)["dreams"] and again.record == whole.record


@pytest.mark.slow
def test_write_stopped_after_every_batch_ends_with_the_same_bits(experiment, tmp_path, monkeypatch):
    articulate(monkeypatch)
    scheduled = next(x for x in experiment.schedule if x.phase == "write")
    initial = lifecycle.init_run_state(experiment).note_day(
        0, slot=0, study=Study((), (), ()).to_record()
    )
    stops = []
    with MetricWriter(tmp_path / "metrics") as writer:
        whole = write(experiment, initial, PhaseLogger(writer, "write", quiet=True), scheduled)
        with PhaseCheckpoints(tmp_path / "mid_phase", keep=2) as saved:
            while True:
                mid_phase = MidPhaseCheckpoint(saved, "write", every=0, watch=Impatient())
                logger = PhaseLogger(writer, "write", quiet=True, mid_phase=mid_phase)
                try:
                    again = write(experiment, initial, logger, scheduled)
                    break
                except Preempted as stopped:
                    stops.append(stopped.where)
    assert len(stops) > 1 and stops[-1] == f"{len(stops)} batches of write"
    assert whole.day(0)["dreams"] and again.record == whole.record
