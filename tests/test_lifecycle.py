"""The whole cycle on the tiny model: it runs, reports, resumes, and refuses what it should."""

import dataclasses
import json
import runpy
import shutil
import types

import jax
import ml_collections
import numpy as np
import pytest
from articulate import articulate
from attempts import reproducible
from hurry import Hurry

from sleep_jax import config as settings
from sleep_jax import lifecycle
from sleep_jax.dreaming import write
from sleep_jax.dreaming.write import Dream
from sleep_jax.experiment import load_experiment
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.schedule import plan
from sleep_jax.memory.slots import SlotsExhausted, take_slot, unlock
from sleep_jax.phases import learn, trial
from sleep_jax.phases.evaluate import STAGES
from sleep_jax.phases.run_state import PhaseLogger
from sleep_jax.phases.select import candidates
from sleep_jax.report import comparison
from sleep_jax.report.html_report import write_report
from sleep_jax.report.summary import summarise
from sleep_jax.run_schedule import DREAMING, run_schedule
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.runtime.metrics import MetricWriter, read_metrics
from sleep_jax.runtime.preemption import Preempted
from sleep_jax.runtime.workdir import check_same_config
from sleep_jax.seeding import rollouts
from sleep_jax.seeding.sequences import Exchange
from sleep_jax.study import questions
from sleep_jax.study.questions import SelfQuestion
from sleep_jax.study.self_study import Study

CONFIGS = "configs/{}.py"


def tiny_config():
    return runpy.run_path(CONFIGS.format("sleep_tiny"))["get_config"]()


@pytest.fixture(scope="module", autouse=True)
def dreaming():
    """The tiny model dreams in all that follows."""
    with pytest.MonkeyPatch.context() as patch:
        articulate(patch)
        yield


@pytest.fixture(scope="module")
def experiment():
    return load_experiment(tiny_config())


@pytest.fixture(scope="module")
def lived(experiment, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, lifecycle.run(experiment, str(workdir), quiet=True)


@pytest.fixture(scope="module")
def undreamt(lived):
    """The night that was lived, as it was before its dreams."""
    run = lived[1]
    [day] = run.record["days"]
    day = {name: day[name] for name in ("study", "slot")}
    phases = run.record["phases"]
    phases = {name: phases[name] for name in ("wake", "study", "consolidate")}
    before = {"phases": phases, "days": [day]}
    return dataclasses.replace(run, current=run.before_dreams, record=before)


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b))


def bank(run, level=1):
    return run.current.memory["layers"][f"level_{level}"]["experts"]


def active(state, level=1):
    return np.asarray(state.slots["layers"][f"level_{level}"]["active"]).sum(axis=1).tolist()


def step_of(experiment, label):
    [step] = [s for s in experiment.steps if s.label == label]
    return step


def test_a_night_changes_one_slot_of_memory_and_nothing_else(experiment, lived):
    born, run = lifecycle.init_run_state(experiment), lived[1]
    old, new = bank(born), bank(run)
    assert equal(jax.tree.map(lambda x: x[:, 1:], old), jax.tree.map(lambda x: x[:, 1:], new))
    assert not np.array_equal(old["down"][:, 0], new["down"][:, 0])
    assert active(run.current) == [1, 1] and active(run.before_sleep) == [0, 0]


def test_every_phase_and_stage_is_recorded_and_reported(experiment, lived, undreamt):
    workdir, run = lived
    assert list(run.record["phases"]) == [s.label for s in experiment.steps]
    assert list(run.record["days"][0]["scores"]) == list(STAGES)
    summary = summarise(experiment, run)
    page = write_report(workdir, summary).read_text()
    assert all(document.title in page for document in experiment.documents)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["phase"] == "consolidate" and "loss" in line]
    assert len(steps) == experiment.config.seeding.steps
    # A round is for four updates: the first says what it took and shows it.
    assert ["time/rollout" in line for line in steps] == [True, False, False, False]
    assert all(line["time/tokens_per_second"] > 0 and "time/mfu" not in line for line in steps)
    [rewards] = [line["rollout_rewards"] for line in lines if "rollout_rewards" in line]
    assert np.mean(rewards) == pytest.approx(steps[0]["reward"])
    assert any("wanted: " in line.get("rollout", "") for line in lines)
    [norms] = [line["norm_down"] for line in lines if "norm_down" in line]
    down = bank(undreamt)["down"][:, 0]
    np.testing.assert_allclose(norms, np.linalg.norm(down, axis=(1, 2)), rtol=1e-5)
    facts = run.record["phases"]["consolidate"]
    assert facts["programs"] > 0 and facts["memory"] > 0


def test_a_finished_run_is_read_back_and_not_lived_again(experiment, lived, monkeypatch):
    workdir, run = lived
    monkeypatch.setattr(lifecycle, "PHASES", dict.fromkeys(lifecycle.PHASES, None))
    again = lifecycle.run(experiment, str(workdir), quiet=True)
    assert equal(again.state, run.state)
    assert again.record == json.loads(json.dumps(run.record))


# What a stop leaves is compiled anew: arrays that were restored are committed to their device.
@pytest.mark.parametrize("before", [("evaluate",), pytest.param(DREAMING, marks=pytest.mark.slow)])
def test_a_run_stopped_between_phases_ends_like_one_that_was_not(
    experiment, lived, tmp_path, monkeypatch, before
):
    phases = dict(lifecycle.PHASES)

    def stop(*_):
        raise KeyboardInterrupt

    for phase in before:
        monkeypatch.setattr(lifecycle, "PHASES", phases | {phase: stop})
        with pytest.raises(KeyboardInterrupt):
            lifecycle.run(experiment, str(tmp_path), quiet=True)
    monkeypatch.setattr(lifecycle, "PHASES", phases)
    run = lifecycle.run(experiment, str(tmp_path), quiet=True)
    assert equal(run.state, lived[1].state)
    assert json.dumps(run.record["days"]) == json.dumps(lived[1].record["days"])
    assert "skipped" not in run.record["phases"]["learn"]


@pytest.mark.slow
def test_a_run_that_is_often_asked_to_stop_ends_like_one_that_was_not(experiment, lived, tmp_path):
    stops, watch = [], Hurry()
    while True:
        try:
            run = lifecycle.run(experiment, str(tmp_path), quiet=True, watch=watch)
            break
        except Preempted as stopped:
            stops.append(stopped.where)
    assert stops
    assert equal(run.state, lived[1].state)
    assert json.dumps(run.record["days"]) == json.dumps(lived[1].record["days"])
    assert not any((tmp_path / "mid_phase").iterdir())
    old, new = (map(reproducible, read_metrics(workdir)) for workdir in (lived[0], tmp_path))
    assert list(new) == list(old)


def test_without_dreams_there_is_no_phase_and_no_stage_of_them(experiment, lived, tmp_path):
    config = tiny_config()
    config.dreaming.steps = 0
    dreamless = dataclasses.replace(experiment, config=ml_collections.FrozenConfigDict(config))
    assert [s.phase for s in dreamless.steps] == ["wake", "study", "consolidate", "evaluate"]
    step = step_of(dreamless, "evaluate")
    with MetricWriter(tmp_path) as writer:
        run = lifecycle.evaluate(
            dreamless, lived[1], PhaseLogger(writer, "evaluate", quiet=True), step
        )
    before, after, _, ceiling = STAGES
    assert list(run.record["days"][0]["scores"]) == [before, after, ceiling]
    summary = summarise(dreamless, run)
    assert [row["stage"] for row in summary["scores"]] == [before, after, ceiling]
    assert summary["samples"] and comparison.at_the_end(tmp_path)["questions"] == 0.0
    config.dreaming.steps = -1
    with pytest.raises(ValueError, match=r"dreaming\.steps=-1; give a whole number at least 0"):
        settings.read(config)


def with_questions(run, questions):
    """The night with other questions of the model's own held out."""
    study = Study.of(run.day(0)["study"])
    study = dataclasses.replace(study, held_out=tuple(questions))
    return run.note_day(0, study=study.record())


def dream(experiment, run, workdir):
    """The three phases of dreaming."""
    with MetricWriter(workdir) as writer:
        for phase in DREAMING:
            logger = PhaseLogger(writer, phase, quiet=True)
            run = lifecycle.PHASES[phase](experiment, run, logger, step_of(experiment, phase))
    return run


def test_dreams_are_tried_and_the_rewarded_ones_learnt(experiment, lived, undreamt):
    workdir, run = lived
    phases, c = run.record["phases"], experiment.config
    assert phases["write"]["written"] == len(experiment.documents) * c.dreaming.count
    facts = phases["try"]
    assert facts["tried"] == phases["select"]["kept"] >= facts["rewarded"] > 0
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    tried = [line for line in lines if line["phase"] == "try" and "reward" in line]
    assert len(tried) == facts["tried"]
    ranked = [line for line in lines if line["phase"] == "select"]
    assert len(ranked) == phases["write"]["dreams"]
    kept = {line["step"]: line["importance"] for line in ranked if line["kept"]}
    on_record = {k["dream"]: k["importance"] for k in run.day(0)["kept"]}
    assert kept == pytest.approx(on_record) and len(kept) == facts["tried"]
    told = [line["gain_over_untrained"] for line in tried]
    assert all((gain > 0) == (line["reward"] == 1.0) for gain, line in zip(told, tried))
    assert [x["untrained"] for x in run.day(0)["gains"]] == pytest.approx(told)
    assert facts["gain_over_untrained"] == pytest.approx(np.mean(told))
    learnt = [line for line in lines if line["phase"] == "learn" and "loss" in line]
    assert len(learnt) >= c.dreaming.steps and phases["learn"]["learnt"] == facts["rewarded"]
    assert "skipped" not in phases["learn"] and not equal(
        run.current.memory, undreamt.current.memory
    )


@pytest.mark.slow
def test_a_slot_that_starts_from_the_base_learns_its_day_again(
    experiment, undreamt, tmp_path, monkeypatch
):
    def change(memory):
        down = take_slot(memory, 1, undreamt.day(0)["slot"])["down"]
        return float(np.sqrt(np.square(down).sum()))

    config = tiny_config()
    config.dreaming.restart = "base"
    other = dataclasses.replace(experiment, config=ml_collections.FrozenConfigDict(config))
    run = with_questions(undreamt, [SelfQuestion(0, "A sentence.", "What is it?", "A reply.")])
    monkeypatch.setattr(trial, "earned", lambda _, gain, of: np.ones(len(gain)))
    dreamt = dream(other, run, tmp_path)
    assert change(dreamt.current.memory) > 0.5 * change(run.current.memory) > 0


def test_where_no_dream_is_rewarded_the_night_stays_and_says_why(
    experiment, undreamt, tmp_path, monkeypatch
):
    monkeypatch.setattr(trial, "earned", lambda _, gain, of: np.zeros(len(gain)))
    dreamt = dream(experiment, undreamt, tmp_path)
    assert dreamt.record["phases"]["learn"]["skipped"] == "no dream was rewarded"
    assert equal(dreamt.current, undreamt.current)


@pytest.mark.slow
def test_where_none_is_rewarded_old_documents_are_rehearsed_all_the_same(
    experiment, undreamt, tmp_path, monkeypatch
):
    old = Exchange(None, (5, 6), (5, 6), (7, 8, 9), "rehearse")
    monkeypatch.setattr(trial, "earned", lambda _, gain, of: np.zeros(len(gain)))
    monkeypatch.setattr(learn, "rehearsed", lambda *_: [old])
    dreamt = dream(experiment, undreamt, tmp_path)
    assert dreamt.record["phases"]["learn"]["learnt"] == 0
    assert not equal(dreamt.current.memory, undreamt.current.memory)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["grpo", "ppo"])
def test_the_writer_is_reinforced_by_all_that_was_tried(
    experiment, undreamt, tmp_path, monkeypatch, estimator
):
    config = tiny_config()
    config.dreaming.estimator = estimator
    other = dataclasses.replace(experiment, config=ml_collections.FrozenConfigDict(config))
    run = with_questions(undreamt, [SelfQuestion(0, "A sentence.", "What is it?", "A reply.")])
    monkeypatch.setattr(trial, "earned", lambda _, gain, of: np.arange(len(gain)) % 2)
    dreamt = dream(other, run, tmp_path)
    assert not equal(dreamt.current.memory, run.current.memory)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    updates = [line for line in lines if line["phase"] == "learn" and "policy_loss" in line]
    assert len(updates) == config.dreaming.steps
    assert ("policy_value" in updates[0]) == (estimator == "ppo")


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["grpo", "ppo"])
def test_where_all_dreams_tie_the_rewarded_are_learnt_and_nothing_is_rolled_out(
    experiment, undreamt, tmp_path, monkeypatch, estimator
):
    config = tiny_config()
    config.dreaming.estimator = estimator
    other = dataclasses.replace(experiment, config=ml_collections.FrozenConfigDict(config))
    run = with_questions(undreamt, [SelfQuestion(0, "A sentence.", "What is it?", "A reply.")])
    monkeypatch.setattr(trial, "earned", lambda _, gain, of: np.ones(len(gain)))
    monkeypatch.setattr(rollouts, "roll_out", pytest.fail)
    dreamt = dream(other, run, tmp_path)
    phases = dreamt.record["phases"]
    assert phases["learn"]["learnt"] == phases["learn"]["tied"] == phases["try"]["tried"] > 0
    assert not equal(dreamt.current.memory, run.current.memory)


@pytest.mark.slow
def test_dreams_that_cost_the_anchors_too_much_are_forgotten(
    experiment, undreamt, tmp_path, monkeypatch
):
    config = tiny_config()
    config.gate.anchors = 0.5
    strict = dataclasses.replace(experiment, config=ml_collections.FrozenConfigDict(config))
    run = with_questions(undreamt, [SelfQuestion(0, "A sentence.", "What is it?", "A reply.")])
    monkeypatch.setattr(trial, "earned", lambda _, gain, of: np.ones(len(gain)))  # all rewarded
    for after, is_kept in ((16.0, False), (15.0, True)):
        measured = iter((10.0, after))
        monkeypatch.setattr(learn, "anchor_perplexity", lambda *_, m=measured: next(m))
        dreamt = dream(strict, run, tmp_path)
        assert equal(dreamt.current, run.current) != is_kept
        assert ("rolled_back" in dreamt.record["phases"]["learn"]) != is_kept


def test_a_night_without_dreams_is_skipped_and_says_why(
    experiment, undreamt, tmp_path, monkeypatch
):
    monkeypatch.setattr(write, "flaw", lambda *_: "loop")
    dreamt = dream(experiment, undreamt, tmp_path)
    phases = dreamt.record["phases"]
    assert phases["write"]["rejected_loop"] == phases["write"]["written"] > 0
    assert all("no dream" in phases[phase]["skipped"] for phase in DREAMING)
    assert equal(dreamt.current, undreamt.current)
    [line] = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert line["rejected_loop"] == line["written"] and line["rejected_short"] == 0


def test_the_targets_of_selection_are_the_passages_and_no_question(experiment):
    day = experiment.days[0]
    targets = candidates(
        experiment, day.documents, [Dream(1, "paraphrase", (5, 6, 7), "abc")]
    ).targets
    for page, tokens, mask in zip(day.documents, targets.tokens, targets.mask):
        assert experiment.tokenizer.decode(tokens[mask].tolist()).startswith(page.text)
        given = experiment.tokenizer.decode(tokens[~mask & (tokens > 0)].tolist())
        assert page.title in given
        assert not any(q.text in given for q in day.questions)


def test_a_reward_question_that_is_a_test_question_is_refused(experiment, undreamt, tmp_path):
    leak = SelfQuestion(0, "s", experiment.questions[0].text, "a")
    with pytest.raises(AssertionError, match="test question"):
        dream(experiment, with_questions(undreamt, [leak]), tmp_path)


def test_a_night_that_the_gate_refuses_leaves_every_byte(experiment, lived, tmp_path):
    config = tiny_config()
    config.gate.anchors = 1e-9
    config.gate.divergence = 1e-9
    strict = dataclasses.replace(experiment, config=ml_collections.FrozenConfigDict(config))
    run = lifecycle.init_run_state(experiment).note_day(0, study=lived[1].day(0)["study"])
    with MetricWriter(tmp_path) as writer:
        logger = PhaseLogger(writer, "consolidate", quiet=True)
        after = lifecycle.consolidate(strict, run, logger, step_of(experiment, "consolidate"))
        assert "gate.divergence" in after.record["phases"]["consolidate"]["rolled_back"]
        assert equal(after.current, run.current) and "slot" not in after.day(0)
    dreamt = dream(strict, after, tmp_path)
    assert "no slot" in dreamt.record["phases"]["write"]["skipped"]
    assert all("skipped" in dreamt.record["phases"][phase] for phase in DREAMING)
    assert equal(dreamt.current, run.current)


def test_a_full_level_stops_the_night_before_any_compute(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(questions, "ask", None)  # to call it would be an error
    run = lifecycle.init_run_state(experiment)
    slots = run.current.slots
    for _ in range(experiment.cfg.memory.level(1).slots):
        slots, _ = unlock(slots, 1)
    run = dataclasses.replace(run, current=run.current.replace(slots=slots))
    step = step_of(experiment, "consolidate")
    with MetricWriter(tmp_path) as writer:
        logger = PhaseLogger(writer, "consolidate", quiet=True)
        with pytest.raises(SlotsExhausted, match=r"set memory\.on_full to 'skip'"):
            lifecycle.consolidate(experiment, run, logger, step)
        memory = dataclasses.replace(experiment.cfg.memory, on_full="skip")
        lenient = dataclasses.replace(experiment, cfg=experiment.cfg.replace(memory=memory))
        after = lifecycle.consolidate(lenient, run, logger, step)
    assert after.record["phases"]["consolidate"]["skipped"] == "level 1 is full"
    assert equal(after.current, run.current)


@pytest.mark.slow
def test_documents_without_questions_are_asked_about_in_the_models_own_words(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("The kettle of Aunt Brenna whistles in D minor. It was made in Orlo.")
    config = tiny_config()
    config.data.documents = str(notes)
    experiment = load_experiment(config)
    own = Study((SelfQuestion(0, "s", "What whistles?", "The kettle."),), (), ())
    run = lifecycle.init_run_state(experiment).note_day(0, study=own.record())
    with MetricWriter(tmp_path) as writer:
        logger = PhaseLogger(writer, "evaluate", quiet=True)
        run = lifecycle.evaluate(experiment, run, logger, step_of(experiment, "evaluate"))
    run = run.note("evaluate", seconds=1.0)
    summary = summarise(experiment, run)
    assert [s["question"] for s in summary["samples"]] == ["What whistles?"]
    assert "questions" not in summary["scores"][0]
    assert "own" in summary["notes"][0]


def test_pages_are_what_was_read_since_the_last_sleep(experiment):
    first, second = (experiment.prompts.page(d) for d in experiment.documents)
    step = step_of(experiment, "consolidate")

    def pages(start, stop):
        return experiment.pages(dataclasses.replace(step, since=0, start=start, stop=stop))

    n = len(first)
    assert pages(0, n + len(second)) == [first, second]
    assert pages(5, n) == [first[5:]]
    assert pages(5, n + 3) == [first[5:], second[:3]]
    assert pages(n + 2, n + 9) == [second[2:9]]


@pytest.fixture(scope="module")
def several_days(tmp_path_factory):
    """Two days and two levels that learn by day, one slot each."""
    config = tiny_config()
    config.data.episodes = 2
    config.memory.periods, config.memory.slots = (1, 0), (1, 2)
    config.memory.learning_rates = (5.0, 0.0)
    config.memory.stride = 64
    config.wake.context = 512
    experiment = load_experiment(config)
    workdir = tmp_path_factory.mktemp("days")
    return experiment, workdir, lifecycle.run(experiment, str(workdir), quiet=True)


@pytest.mark.slow
def test_knowledge_climbs_one_level_a_night(several_days):
    experiment, workdir, run = several_days
    levels = [f["levels"] for name, f in run.record["phases"].items() if "consol" in name]
    assert levels == ["1 -> 2", "0 -> 1", "1 -> 2", "0 -> 1"]
    asleep = [facts for name, facts in run.record["phases"].items() if "consol" in name]
    assert not any("skipped" in facts for facts in asleep)
    # Level 1 was cleared and given the last day, level 2 has a slot of each night.
    assert active(run.current, 1) == [1, 1] and active(run.current, 2) == [2, 2]
    assert [day["slot"] for day in run.record["days"]] == [0, 0]
    wake = run.current.memory["layers"]["level_1"]["wake"]
    assert not wake["down"].any() and equal(wake, run.current.wake.wake["level_1"])
    assert run.record["phases"]["wake-2"]["updates_level_1"] == 1
    summary = summarise(experiment, run)
    assert [len(row) for row in summary["recall"]] == [1, 2]
    assert "What it keeps" in write_report(workdir, summary).read_text()


@pytest.mark.parametrize(
    "name",
    ["sleep_tiny", "sleep_smollm2", "seal", "ladder"]
    + ["seeding_8b", "seeding_1p7b", "seeding_llama3_8b"]
    + [f"levels_{model}:{k}" for model in ("tiny", "smollm2") for k in (2, 3, 4)]
    + ["sweeps/alpha_tiny", "sweeps/seeding_ablation"],
)
def test_presets_change_only_settings_that_exist(name):
    file, _, variant = name.partition(":")
    config = runpy.run_path(CONFIGS.format(file))["get_config"](*[variant][: len(variant)])
    default = settings.default()
    assert set(config.to_dict()) == set(default.to_dict())
    for section in (
        "mesh",
        "study",
        "seeding",
        "dreaming",
        "data",
        "model",
        "memory",
        "wake",
        "gate",
    ):
        assert set(config[section]) == set(default[section])
    memory = settings.read(config).memory
    if config.memory.unit == "episodes":
        assert run_schedule(memory, [300] * config.data.episodes)
        assert not any(s.exceeds_slots for s in plan(memory, config.data.episodes))


@pytest.mark.slow
def test_a_second_night_without_expansion_trains_the_slot_of_the_first(tmp_path):
    config = tiny_config()
    config.data.episodes, config.dreaming.steps = 2, 0
    config.memory.slots, config.memory.on_full = (1,), "reuse"
    experiment = load_experiment(config)
    run = lifecycle.run(experiment, str(tmp_path), quiet=True)
    assert active(run.current) == [1, 1] and active(run.before_sleep) == [1, 1]
    assert [day["slot"] for day in run.record["days"]] == [0, 0]
    assert not equal(run.before_sleep.memory, run.current.memory)
    assert comparison.at_the_end(tmp_path)["earlier"] == 0.0


def test_the_rest_of_a_run_goes_on_where_its_finished_phases_end():
    memory = MemoryConfig((LevelConfig(slots=3, rank=4),), unit="episodes")
    merging = dataclasses.replace(memory, on_full="merge")
    plain, merged = (run_schedule(m, [9] * 5, dreams=False) for m in (memory, merging))
    assert [s.phase for s in merged].count("merge") == 3  # nights 3, 4 and 5
    finished = [s.label for s in plain[:11]]  # night 3 has been learnt
    assert lifecycle._left(plain, finished, 10) == [*enumerate(plain)][11:]
    # With one merge before that: indices go on, and so do the numbers of random draws.
    left = lifecycle._left(merged, finished, 10)
    assert [(i, s.label) for i, s in left[:2]] == [(11, "evaluate-3"), (12, "wake-4")]
    assert left[0][1].number == merged[12].number > plain[10].number
    # And back: the merge that was made is none of the steps now, and its number stays its own.
    finished = [s.label for s in merged[:13]]
    left = lifecycle._left(plain, finished, 12)
    assert [(i, s.label) for i, s in left[:2]] == [(13, "wake-4"), (14, "study-4")]
    assert left[0][1].number == merged[12].number + 1


@pytest.mark.slow
def test_a_run_whose_slots_ran_out_goes_on_with_the_remedy(tmp_path):
    config = tiny_config()
    config.data.episodes, config.memory.slots, config.dreaming.steps = 2, (1,), 0
    experiment = load_experiment(config)
    with pytest.raises(SlotsExhausted, match="'skip' or 'reuse' and this run goes on"):
        lifecycle.run(experiment, str(tmp_path), quiet=True)
    for on_full, said in (("skip", "level 1 is full"), ("reuse", None)):
        config.memory.on_full = on_full
        workdir = tmp_path / on_full
        shutil.copytree(tmp_path / "checkpoints", workdir / "checkpoints")
        check_same_config(experiment.config.to_dict(), config.to_dict(), workdir, is_under_way=True)
        run = lifecycle.run(load_experiment(config), str(workdir), quiet=True)
        assert run.record["phases"]["consolidate-2"].get("skipped") == said
        with PhaseCheckpoints(workdir / "checkpoints") as saved:
            last, _ = saved.latest()
            kept = [saved.record(i)["config"]["memory"]["on_full"] for i in (0, last)]
        assert kept == ["error", on_full]


@pytest.mark.parametrize("facts", [{}, {"skipped": "level 1 is full"}])
def test_a_study_that_is_skipped_says_nothing_of_the_pace(experiment, tmp_path, monkeypatch, facts):
    def phase(experiment, run, logger, step):
        return run.note(step.label, **facts)

    monkeypatch.setattr(lifecycle, "PHASES", dict.fromkeys(lifecycle.PHASES, phase))
    told = []
    time_estimate = types.SimpleNamespace(studied=told.append)
    lifecycle.run(experiment, str(tmp_path), quiet=True, time_estimate=time_estimate)
    assert len(told) == (not facts)
