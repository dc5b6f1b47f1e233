"""The whole cycle on the tiny model: it runs, reports, resumes, and refuses what it should."""

import dataclasses
import json
import runpy

import jax
import numpy as np
import pytest

from sleep_jax import lifecycle, morning
from sleep_jax.runtime.report import write_report
from sleep_jax.seeding.self_study import Question
from sleep_jax.sleeper import wake_up

CONFIGS = "configs/{}.py"


def tiny_config():
    return runpy.run_path(CONFIGS.format("sleep_tiny"))["get_config"]()


@pytest.fixture(scope="module")
def sleeper():
    return wake_up(tiny_config())


@pytest.fixture(scope="module")
def lived(sleeper, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, lifecycle.live(sleeper, str(workdir), quiet=True)


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b))


def test_a_night_changes_one_slot_of_memory_and_nothing_else(sleeper, lived):
    born, night = lifecycle.birth(sleeper), lived[1]
    old, new = born.memory["layers"]["level_1"], night.memory["layers"]["level_1"]
    assert equal(jax.tree.map(lambda x: x[:, 1:], old), jax.tree.map(lambda x: x[:, 1:], new))
    assert not np.array_equal(old["down"][:, 0], new["down"][:, 0])
    assert np.asarray(night.slots["layers"]["level_1"]["active"]).sum(axis=1).tolist() == [1, 1]
    assert not np.asarray(night.awake_slots["layers"]["level_1"]["active"]).any()


def test_every_phase_and_stage_is_recorded_and_reported(sleeper, lived):
    workdir, night = lived
    assert list(night.record["phases"]) == list(lifecycle.PHASES)
    assert list(night.record["scores"]) == list(lifecycle.STAGES)
    summary = morning.summarise(sleeper, night)
    page = write_report(workdir, summary).read_text()
    assert all(document.title in page for document in sleeper.documents)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["phase"] == "consolidate" and "loss" in line]
    assert len(steps) == sleeper.config.seeding.steps


def test_a_finished_run_is_read_back_and_not_lived_again(sleeper, lived, monkeypatch):
    workdir, night = lived
    monkeypatch.setattr(lifecycle, "PHASES", dict.fromkeys(lifecycle.PHASES, None))
    again = lifecycle.live(sleeper, str(workdir), quiet=True)
    assert equal(again.state, night.state)
    assert again.record == json.loads(json.dumps(night.record))


def test_a_run_stopped_between_phases_ends_like_one_that_was_not(
    sleeper, lived, tmp_path, monkeypatch
):
    phases = dict(lifecycle.PHASES)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(lifecycle, "PHASES", phases | {"dream": stop})
    with pytest.raises(KeyboardInterrupt):
        lifecycle.live(sleeper, str(tmp_path), quiet=True)
    monkeypatch.setattr(lifecycle, "PHASES", phases)
    night = lifecycle.live(sleeper, str(tmp_path), quiet=True)
    assert equal(night.state, lived[1].state)
    assert night.record["replies"] == lived[1].record["replies"]


def test_dreams_are_tried_and_the_rewarded_ones_learnt(sleeper, lived, tmp_path):
    night = lived[1]
    own = [
        dataclasses.asdict(Question(i, "A sentence.", f"What is {i}?", "A reply."))
        for i in range(len(sleeper.documents))
    ]
    night = night.note(study={"held_out": own})
    with lifecycle.MetricWriter(tmp_path) as writer:
        dreamt = lifecycle.dream(sleeper, night, lifecycle.Desk(writer, quiet=True))
    facts = dreamt.record["phases"]["dream"]
    assert facts["written"] == len(sleeper.documents) * sleeper.config.dreaming.count
    assert facts["kept"] >= facts["rewarded"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    tried = [line for line in lines if line["phase"] == "dream" and "gain" in line]
    assert len(tried) == facts["kept"]
    assert all((line["gain"] > 0) == (line["reward"] == 1.0) for line in tried)
    changed = not equal(dreamt.memory, night.memory)
    assert changed == (facts["rewarded"] > 0)


def test_a_reward_question_that_is_a_test_question_is_refused(sleeper, lived, tmp_path):
    leak = Question(0, "s", sleeper.questions[0].text, "a")
    night = lived[1].note(study={"held_out": [dataclasses.asdict(leak)]})
    with (
        lifecycle.MetricWriter(tmp_path) as writer,
        pytest.raises(AssertionError, match="test question"),
    ):
        lifecycle.dream(sleeper, night, lifecycle.Desk(writer, quiet=True))


def test_held_out_questions_are_not_learnt():
    questions = [Question(i // 4, "s", f"q{i}?", "a" if i % 2 else None) for i in range(8)]
    held, learnt = lifecycle.hold_out(questions, 1)
    assert [q.question for q in held] == ["q1?", "q5?"]
    assert [q.question for q in learnt] == [f"q{i}?" for i in range(8) if i not in (1, 5)]


def test_documents_without_questions_are_asked_about_in_the_models_own_words(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("The kettle of Aunt Brenna whistles in D minor. It was made in Orlo.")
    config = tiny_config()
    config.data.documents = str(notes)
    sleeper = wake_up(config)
    own = [dataclasses.asdict(Question(0, "s", "What whistles?", "The kettle."))]
    night = lifecycle.birth(sleeper).note(study={"held_out": own}, phases={})
    with lifecycle.MetricWriter(tmp_path) as writer:
        night = lifecycle.evaluate(sleeper, night, lifecycle.Desk(writer, quiet=True))
    night = night.note(phases={"evaluate": night.record["phases"]["evaluate"] | {"seconds": 1.0}})
    summary = morning.summarise(sleeper, night)
    assert [s["question"] for s in summary["samples"]] == ["What whistles?"]
    assert "questions" not in summary["scores"][0]
    assert "own" in summary["notes"][0]


@pytest.mark.parametrize("name", ["sleep_tiny", "sleep_smollm2", "seeding_8b"])
def test_presets_change_only_settings_that_exist(name):
    from sleep_jax import config as settings

    config = runpy.run_path(CONFIGS.format(name))["get_config"]()
    default = settings.default()
    assert set(config.to_dict()) == set(default.to_dict())
    for section in ("study", "seeding", "dreaming", "data", "model", "memory"):
        assert set(config[section]) == set(default[section])
    settings.seeding_config(config)
    settings.reinforcing_config(config)
