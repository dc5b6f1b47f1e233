"""The whole cycle on the tiny model: it runs, reports, resumes, and refuses what it should."""

import dataclasses
import json
import types

import jax
import ml_collections
import numpy as np
import pytest
from articulate import articulate
from attempts import reproducible
from called_programs import check_programs_of_a_run, record_calls
from hurry import Hurry
from tiny_run import active, equal, tiny_config

from sleep_jax import config as settings
from sleep_jax import lifecycle
from sleep_jax.dreaming import write
from sleep_jax.dreaming.write import Dream
from sleep_jax.experiment import load_experiment
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import SlotsExhausted, take_slot, unlock
from sleep_jax.phases import learn, trial
from sleep_jax.phases.consolidate import consolidate
from sleep_jax.phases.evaluate import STAGES, evaluate
from sleep_jax.phases.registry import PHASES
from sleep_jax.phases.run_state import PhaseLogger
from sleep_jax.phases.select import candidates
from sleep_jax.report import comparison
from sleep_jax.report.html_report import write_report
from sleep_jax.report.summary import summarise
from sleep_jax.run_schedule import DREAMING, run_schedule
from sleep_jax.runtime.metrics import MetricWriter, read_metrics
from sleep_jax.runtime.preemption import Preempted
from sleep_jax.seeding import rollouts
from sleep_jax.seeding.sequences import Exchange
from sleep_jax.study import questions
from sleep_jax.study.questions import SelfQuestion
from sleep_jax.study.self_study import Study


@pytest.fixture(scope="module", autouse=True)
def dreaming():
    """The tiny model dreams in all that follows, and all that it asks is about its sentence."""
    with pytest.MonkeyPatch.context() as patch:
        articulate(patch)
        patch.setattr(questions, "is_about", lambda text, sentence: bool(text))
        yield


@pytest.fixture(scope="module")
def experiment():
    return load_experiment(tiny_config())


@pytest.fixture(scope="module")
def finished_run_and_calls(experiment, tmp_path_factory):
    """The work directory of a run, what it left and the calls of its programs."""
    workdir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        calls = record_calls(patch)
        return workdir, lifecycle.run(experiment, str(workdir), quiet=True), calls


@pytest.fixture(scope="module")
def finished(finished_run_and_calls):
    workdir, run, _ = finished_run_and_calls
    return workdir, run


@pytest.fixture(scope="module")
def before_dreams_run(finished):
    """The finished run as it was before its dreams."""
    run = finished[1]
    [day] = run.record["days"]
    day = {name: day[name] for name in ("study", "slot")}
    phases = run.record["phases"]
    phases = {name: phases[name] for name in ("wake", "study", "consolidate")}
    before = {"phases": phases, "days": [day]}
    return dataclasses.replace(run, current=run.before_dreams, record=before)


def bank(run, level=1):
    return run.current.memory["layers"][f"level_{level}"]["experts"]


def scheduled_phase(experiment, label):
    [scheduled] = [s for s in experiment.schedule if s.label == label]
    return scheduled


def test_run_changes_one_slot_of_memory_alone(experiment, finished):
    initial, run = lifecycle.init_run_state(experiment), finished[1]
    old, new = bank(initial), bank(run)
    assert equal(jax.tree.map(lambda x: x[:, 1:], old), jax.tree.map(lambda x: x[:, 1:], new))
    assert not np.array_equal(old["down"][:, 0], new["down"][:, 0])
    assert active(run.current) == [1, 1] and active(run.before_sleep) == [0, 0]


def test_run_records_and_reports_every_phase_and_stage(experiment, finished, before_dreams_run):
    workdir, run = finished
    assert list(run.record["phases"]) == [s.label for s in experiment.schedule]
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
    assert any("reference: " in line.get("rollout", "") for line in lines)
    [norms] = [line["norm_down"] for line in lines if "norm_down" in line]
    down = bank(before_dreams_run)["down"][:, 0]
    np.testing.assert_allclose(norms, np.linalg.norm(down, axis=(1, 2)), rtol=1e-5)
    facts = run.record["phases"]["consolidate"]
    assert facts["programs"] > 0 and facts["memory"] > 0


def test_phases_list_the_programs_that_a_run_compiles(experiment, finished_run_and_calls):
    workdir, run, calls = finished_run_and_calls
    assert set(run.record["phases"]) == set(PHASES) - {"merge"}
    check_programs_of_a_run(experiment, run, workdir, calls)


def test_run_that_is_finished_is_read_and_not_repeated(experiment, finished, monkeypatch):
    workdir, run = finished
    monkeypatch.setattr(lifecycle, "PHASES", dict.fromkeys(PHASES, None))
    again = lifecycle.run(experiment, str(workdir), quiet=True)
    assert equal(again.arrays, run.arrays)
    assert again.record == json.loads(json.dumps(run.record))


# What a stop leaves is compiled anew: arrays that were restored are committed to their device.
@pytest.mark.parametrize("before", [("evaluate",), pytest.param(DREAMING, marks=pytest.mark.slow)])
def test_run_stopped_between_phases_ends_with_the_same_bits(
    experiment, finished, tmp_path, monkeypatch, before
):
    def stop(*_):
        raise KeyboardInterrupt

    for name in before:
        stopping = dataclasses.replace(PHASES[name], function=stop)
        monkeypatch.setattr(lifecycle, "PHASES", PHASES | {name: stopping})
        with pytest.raises(KeyboardInterrupt):
            lifecycle.run(experiment, str(tmp_path), quiet=True)
    monkeypatch.setattr(lifecycle, "PHASES", PHASES)
    run = lifecycle.run(experiment, str(tmp_path), quiet=True)
    assert equal(run.arrays, finished[1].arrays)
    assert json.dumps(run.record["days"]) == json.dumps(finished[1].record["days"])
    assert "skipped" not in run.record["phases"]["learn"]


@pytest.mark.slow
def test_run_preempted_often_ends_with_the_same_bits(experiment, finished, tmp_path):
    stops, watch = [], Hurry()
    while True:
        try:
            run = lifecycle.run(experiment, str(tmp_path), quiet=True, watch=watch)
            break
        except Preempted as stopped:
            stops.append(stopped.where)
    assert stops
    assert equal(run.arrays, finished[1].arrays)
    assert json.dumps(run.record["days"]) == json.dumps(finished[1].record["days"])
    assert not any((tmp_path / "mid_phase").iterdir())
    old, new = (map(reproducible, read_metrics(workdir)) for workdir in (finished[0], tmp_path))
    assert list(new) == list(old)


def test_run_without_dreams_has_no_phase_or_stage_of_them(experiment, finished, tmp_path):
    config = tiny_config()
    config.dreaming.steps = 0
    dreamless = dataclasses.replace(experiment, config=ml_collections.FrozenConfigDict(config))
    assert [s.phase for s in dreamless.schedule] == ["wake", "study", "consolidate", "evaluate"]
    scheduled = scheduled_phase(dreamless, "evaluate")
    with MetricWriter(tmp_path) as writer:
        run = evaluate(
            dreamless, finished[1], PhaseLogger(writer, "evaluate", quiet=True), scheduled
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
    study = Study.from_record(run.day(0)["study"])
    study = dataclasses.replace(study, held_out=tuple(questions))
    return run.note_day(0, study=study.to_record())


def dream(experiment, run, workdir):
    """The three phases of dreaming."""
    with MetricWriter(workdir) as writer:
        for phase in DREAMING:
            logger = PhaseLogger(writer, phase, quiet=True)
            scheduled = scheduled_phase(experiment, phase)
            run = PHASES[phase].function(experiment, run, logger, scheduled)
    return run


def test_dreaming_tries_dreams_and_learns_the_rewarded(experiment, finished, before_dreams_run):
    workdir, run = finished
    phases, c = run.record["phases"], experiment.config
    assert phases["write"]["written"] == len(experiment.documents) * c.dreaming.num_generations
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
    recorded = [line["gain_over_untrained"] for line in tried]
    assert all((gain > 0) == (line["reward"] == 1.0) for gain, line in zip(recorded, tried))
    assert [x["untrained"] for x in run.day(0)["gains"]] == pytest.approx(recorded)
    assert facts["gain_over_untrained"] == pytest.approx(np.mean(recorded))
    learnt = [line for line in lines if line["phase"] == "learn" and "loss" in line]
    assert len(learnt) >= c.dreaming.steps and phases["learn"]["learnt"] == facts["rewarded"]
    assert "skipped" not in phases["learn"] and not equal(
        run.current.memory, before_dreams_run.current.memory
    )


@pytest.mark.slow
def test_learn_from_base_learns_the_day_again(experiment, before_dreams_run, tmp_path, monkeypatch):
    def change(memory):
        down = take_slot(memory, 1, before_dreams_run.day(0)["slot"])["down"]
        return float(np.sqrt(np.square(down).sum()))

    config = tiny_config()
    config.dreaming.restart = "base"
    other = dataclasses.replace(experiment, config=ml_collections.FrozenConfigDict(config))
    run = with_questions(
        before_dreams_run, [SelfQuestion(0, "A sentence.", "What is it?", "A reply.")]
    )
    monkeypatch.setattr(trial, "compute_rewards", lambda _, gain, documents: np.ones(len(gain)))
    dreamt = dream(other, run, tmp_path)
    assert change(dreamt.current.memory) > 0.5 * change(run.current.memory) > 0


def test_learn_without_a_reward_is_skipped_with_the_reason(
    experiment, before_dreams_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(trial, "compute_rewards", lambda _, gain, documents: np.zeros(len(gain)))
    dreamt = dream(experiment, before_dreams_run, tmp_path)
    assert dreamt.record["phases"]["learn"]["skipped"] == "no dream was rewarded"
    assert equal(dreamt.current, before_dreams_run.current)


@pytest.mark.slow
def test_learn_without_a_reward_rehearses_old_documents(
    experiment, before_dreams_run, tmp_path, monkeypatch
):
    old = Exchange(None, (5, 6), (5, 6), (7, 8, 9), "rehearse")
    monkeypatch.setattr(trial, "compute_rewards", lambda _, gain, documents: np.zeros(len(gain)))
    monkeypatch.setattr(learn, "rehearsed", lambda *_: [old])
    dreamt = dream(experiment, before_dreams_run, tmp_path)
    assert dreamt.record["phases"]["learn"]["learnt"] == 0
    assert not equal(dreamt.current.memory, before_dreams_run.current.memory)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["grpo", "ppo"])
def test_learn_by_policy_gradient_uses_all_tried_dreams(
    experiment, before_dreams_run, tmp_path, monkeypatch, estimator
):
    config = tiny_config()
    config.dreaming.estimator = estimator
    other = dataclasses.replace(experiment, config=ml_collections.FrozenConfigDict(config))
    run = with_questions(
        before_dreams_run, [SelfQuestion(0, "A sentence.", "What is it?", "A reply.")]
    )
    monkeypatch.setattr(
        trial, "compute_rewards", lambda _, gain, documents: np.arange(len(gain)) % 2
    )
    dreamt = dream(other, run, tmp_path)
    assert not equal(dreamt.current.memory, run.current.memory)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    updates = [line for line in lines if line["phase"] == "learn" and "policy_loss" in line]
    assert len(updates) == config.dreaming.steps
    assert ("policy_value" in updates[0]) == (estimator == "ppo")


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["grpo", "ppo"])
def test_learn_with_tied_rewards_has_no_policy_gradient(
    experiment, before_dreams_run, tmp_path, monkeypatch, estimator
):
    config = tiny_config()
    config.dreaming.estimator = estimator
    other = dataclasses.replace(experiment, config=ml_collections.FrozenConfigDict(config))
    run = with_questions(
        before_dreams_run, [SelfQuestion(0, "A sentence.", "What is it?", "A reply.")]
    )
    monkeypatch.setattr(trial, "compute_rewards", lambda _, gain, documents: np.ones(len(gain)))
    monkeypatch.setattr(rollouts, "sample_rollouts", pytest.fail)
    dreamt = dream(other, run, tmp_path)
    phases = dreamt.record["phases"]
    assert phases["learn"]["learnt"] == phases["learn"]["tied"] == phases["try"]["tried"] > 0
    assert not equal(dreamt.current.memory, run.current.memory)


@pytest.mark.slow
def test_learn_is_rolled_back_where_anchors_lose_too_much(
    experiment, before_dreams_run, tmp_path, monkeypatch
):
    config = tiny_config()
    config.gate.anchors = 0.5
    strict = dataclasses.replace(experiment, config=ml_collections.FrozenConfigDict(config))
    run = with_questions(
        before_dreams_run, [SelfQuestion(0, "A sentence.", "What is it?", "A reply.")]
    )
    monkeypatch.setattr(
        trial, "compute_rewards", lambda _, gain, documents: np.ones(len(gain))
    )  # all rewarded
    for after, is_kept in ((16.0, False), (15.0, True)):
        measured = iter((10.0, after))
        monkeypatch.setattr(learn, "anchor_perplexity", lambda *_, m=measured: next(m))
        dreamt = dream(strict, run, tmp_path)
        assert equal(dreamt.current, run.current) != is_kept
        assert ("rolled_back" in dreamt.record["phases"]["learn"]) != is_kept


def test_dreaming_without_dreams_is_skipped_with_the_reason(
    experiment, before_dreams_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(write, "dream_rejection_reason", lambda *_: "loop")
    dreamt = dream(experiment, before_dreams_run, tmp_path)
    phases = dreamt.record["phases"]
    assert phases["write"]["rejected_loop"] == phases["write"]["written"] > 0
    assert all("no dream" in phases[phase]["skipped"] for phase in DREAMING)
    assert equal(dreamt.current, before_dreams_run.current)
    [line] = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert line["rejected_loop"] == line["written"] and line["rejected_short"] == 0


def test_select_targets_are_passages_not_questions(experiment):
    day = experiment.days[0]
    targets = candidates(
        experiment, day.documents, [Dream(1, "paraphrase", (5, 6, 7), "abc")]
    ).targets
    for page, tokens, mask in zip(day.documents, targets.tokens, targets.mask):
        assert experiment.tokenizer.decode(tokens[mask].tolist()).startswith(page.text)
        given = experiment.tokenizer.decode(tokens[~mask & (tokens > 0)].tolist())
        assert page.title in given
        assert not any(q.text in given for q in day.questions)


def test_dreaming_refuses_a_test_question_as_reward(experiment, before_dreams_run, tmp_path):
    leak = SelfQuestion(0, "s", experiment.questions[0].text, "a")
    with pytest.raises(AssertionError, match="test question"):
        dream(experiment, with_questions(before_dreams_run, [leak]), tmp_path)


def test_consolidate_rolled_back_leaves_every_byte(experiment, finished, tmp_path):
    config = tiny_config()
    config.gate.anchors = 1e-9
    config.gate.divergence = 1e-9
    strict = dataclasses.replace(experiment, config=ml_collections.FrozenConfigDict(config))
    run = lifecycle.init_run_state(experiment).note_day(0, study=finished[1].day(0)["study"])
    with MetricWriter(tmp_path) as writer:
        logger = PhaseLogger(writer, "consolidate", quiet=True)
        after = consolidate(strict, run, logger, scheduled_phase(experiment, "consolidate"))
        assert "gate.divergence" in after.record["phases"]["consolidate"]["rolled_back"]
        assert equal(after.current, run.current) and "slot" not in after.day(0)
    dreamt = dream(strict, after, tmp_path)
    assert "no slot" in dreamt.record["phases"]["write"]["skipped"]
    assert all("skipped" in dreamt.record["phases"][phase] for phase in DREAMING)
    assert equal(dreamt.current, run.current)


def test_consolidate_into_a_full_level_raises_before_any_compute(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(questions, "write_questions", None)  # to call it would be an error
    run = lifecycle.init_run_state(experiment)
    slots = run.current.slots
    for _ in range(experiment.cfg.memory.level(1).slots):
        slots, _ = unlock(slots, 1)
    run = dataclasses.replace(run, current=run.current.replace(slots=slots))
    scheduled = scheduled_phase(experiment, "consolidate")
    with MetricWriter(tmp_path) as writer:
        logger = PhaseLogger(writer, "consolidate", quiet=True)
        with pytest.raises(SlotsExhausted, match=r"set memory\.on_full to 'skip'"):
            consolidate(experiment, run, logger, scheduled)
        memory = dataclasses.replace(experiment.cfg.memory, on_full="skip")
        lenient = dataclasses.replace(experiment, cfg=experiment.cfg.replace(memory=memory))
        after = consolidate(lenient, run, logger, scheduled)
    assert after.record["phases"]["consolidate"]["skipped"] == "level 1 is full"
    assert equal(after.current, run.current)


@pytest.mark.slow
def test_evaluate_asks_own_questions_where_documents_have_none(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("The kettle of Aunt Brenna whistles in D minor. It was made in Orlo.")
    config = tiny_config()
    config.data.documents = str(notes)
    experiment = load_experiment(config)
    study = Study((SelfQuestion(0, "s", "What whistles?", "The kettle."),), (), ())
    run = lifecycle.init_run_state(experiment).note_day(0, study=study.to_record())
    with MetricWriter(tmp_path) as writer:
        logger = PhaseLogger(writer, "evaluate", quiet=True)
        run = evaluate(experiment, run, logger, scheduled_phase(experiment, "evaluate"))
    run = run.note("evaluate", seconds=1.0)
    summary = summarise(experiment, run)
    assert [s["question"] for s in summary["samples"]] == ["What whistles?"]
    assert "questions" not in summary["scores"][0]
    assert "own" in summary["notes"][0]


def test_experiment_pages_since_the_last_sleep(experiment):
    first, second = (experiment.prompts.plain_document(d) for d in experiment.documents)
    scheduled = scheduled_phase(experiment, "consolidate")

    def pages(start, stop):
        return experiment.pages(dataclasses.replace(scheduled, since=0, start=start, stop=stop))

    n = len(first)
    assert pages(0, n + len(second)) == [first, second]
    assert pages(5, n) == [first[5:]]
    assert pages(5, n + 3) == [first[5:], second[:3]]
    assert pages(n + 2, n + 9) == [second[2:9]]


def test_remaining_phases_follow_the_finished_ones():
    memory = MemoryConfig((LevelConfig(slots=3, rank=4),), unit="episodes")
    merging = dataclasses.replace(memory, on_full="merge")
    plain, merged = (run_schedule(m, [9] * 5, dreams=False) for m in (memory, merging))
    assert [s.phase for s in merged].count("merge") == 3  # nights 3, 4 and 5
    finished = [s.label for s in plain[:11]]  # night 3 has been learnt
    assert lifecycle._remaining(plain, finished, 10) == [*enumerate(plain)][11:]
    # With one merge before that: indices go on, and so do the numbers of random draws.
    left = lifecycle._remaining(merged, finished, 10)
    assert [(i, s.label) for i, s in left[:2]] == [(11, "evaluate-3"), (12, "wake-4")]
    assert left[0][1].rng_stream == merged[12].rng_stream > plain[10].rng_stream
    # And back: the merge that was made is none of the steps now, and its number stays its own.
    finished = [s.label for s in merged[:13]]
    left = lifecycle._remaining(plain, finished, 12)
    assert [(i, s.label) for i, s in left[:2]] == [(13, "wake-4"), (14, "study-4")]
    assert left[0][1].rng_stream == merged[12].rng_stream + 1


@pytest.mark.parametrize("facts", [{}, {"skipped": "level 1 is full"}])
def test_time_estimate_ignores_a_skipped_study(experiment, tmp_path, monkeypatch, facts):
    def phase(experiment, run, logger, scheduled):
        return run.note(scheduled.label, **facts)

    skipping = {n: dataclasses.replace(x, function=phase) for n, x in PHASES.items()}
    monkeypatch.setattr(lifecycle, "PHASES", skipping)
    recorded = []
    time_estimate = types.SimpleNamespace(add_study=recorded.append)
    lifecycle.run(experiment, str(tmp_path), quiet=True, time_estimate=time_estimate)
    assert len(recorded) == (not facts)
