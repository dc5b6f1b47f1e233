"""Tasks in a run: before and after every night, on record, and watched by the gate."""

import math
import types

import pytest
from tiny_run import tiny_config

from sleep_jax.config import read
from sleep_jax.phases import tasks as module
from sleep_jax.phases.run_state import PhaseLogger, RunState
from sleep_jax.phases.tasks import falls_of_tasks, note_tasks
from sleep_jax.report import run_record
from sleep_jax.runtime.metrics import MetricWriter, read_metrics
from sleep_jax.seeding.gate import Gate
from sleep_jax.tasks.task_scores import TaskScore, falls, side_by_side


def score(task, value, is_higher_better=True, metric="acc", stderr=0.1):
    return TaskScore(task, metric, value, stderr, 10, is_higher_better, is_chat=False)


BEFORE = [score("a", 0.5), score("a", 0.4, metric="acc_norm"), score("b", 8.0, False, "ppl", None)]
AFTER = [score("a", 0.3), score("a", 0.6, metric="acc_norm"), score("b", 10.0, False, "ppl", None)]


def test_falls_are_those_of_main_scores_by_hand():
    assert falls(BEFORE, AFTER) == pytest.approx({"a": 0.2, "b": 0.25})
    assert falls(AFTER, BEFORE) == pytest.approx({"a": -0.2, "b": -0.2})


def test_gate_rejects_a_task_that_fell_with_its_numbers():
    assert Gate(tasks=0.3).tasks_rejection_reason({"a": 0.2, "b": -5.0}) is None
    reason = "the score of the task a fell by 0.2, more than gate.tasks=0.1"
    assert Gate(tasks=0.1).tasks_rejection_reason({"b": 0.0, "a": 0.2}) == reason
    assert Gate(tasks=0.1).tasks_rejection_reason({"a": math.nan}) is not None
    assert Gate().tasks_rejection_reason({"a": 1e9}) is None


def experiment_of(tasks, limit=math.inf):
    settings = types.SimpleNamespace(evaluation=types.SimpleNamespace(tasks=tasks))
    settings.gate = Gate(tasks=limit)
    return types.SimpleNamespace(config=settings, settings=settings, params=None)


def run_of(*days):
    now, before = (types.SimpleNamespace(variables=lambda _, n=n: n) for n in ("now", "before"))
    return RunState(now, before, None, {"phases": {}, "days": [*days]})


@pytest.fixture
def measured(monkeypatch):
    """Every model that was measured; the one before the night has the scores BEFORE."""
    models = []

    def scores_of_tasks(experiment, run, variables, **how):
        models.append(variables)
        return BEFORE if variables == "before" else AFTER

    monkeypatch.setattr(module, "scores_of_tasks", scores_of_tasks)
    return models


def test_tasks_are_on_record_before_and_after_a_night(measured, tmp_path):
    with MetricWriter(tmp_path) as writer:
        logger = PhaseLogger(writer, "evaluate-2", quiet=True)
        run = note_tasks(experiment_of(("a", "b")), run_of({}, {}), logger, 1, (0, 2))
    assert measured == ["before", "now"] and "tasks" not in run.record["days"][0]
    assert run.record["days"][1]["tasks"] == side_by_side(BEFORE, AFTER)
    lines = {line["step"]: line for line in read_metrics(tmp_path)}
    assert (lines[0]["task_a_acc"], lines[2]["task_a_acc"]) == (0.5, 0.3)
    assert lines[2]["task_b_ppl"] == 10.0
    record = {"phase": "evaluate-2", "record": {"config": {}, "run": run.record}}
    assert run_record.checked(record, "it") == record
    rows = run_record.tasks(run.record)
    assert rows[0] == {
        "night": 2, "task": "a", "metric": "acc", "before": 0.5, "after": 0.3, "stderr": 0.1,
        "items": 10,
    }  # fmt: skip
    assert rows[2]["metric"] == "ppl (less is better)" and rows[2]["stderr"] is None


def test_nothing_is_measured_without_tasks(measured):
    run = run_of({})
    assert note_tasks(experiment_of(()), run, None, 0, (0, 1)) is run and not measured


def test_gate_measures_only_where_it_watches(measured):
    assert falls_of_tasks(experiment_of(("a",)), run_of({})) is None
    fallen = falls_of_tasks(experiment_of(("a",), 0.1), run_of({}))
    assert fallen("before", "now") == pytest.approx({"a": 0.2, "b": 0.25})


@pytest.mark.parametrize(
    ("tasks", "limit", "message"),
    [((), 0.1, r"gate.tasks=0.1 watches"), (("test_questions",), math.inf, "leave it out")],
)
def test_settings_of_tasks_that_contradict_each_other_are_refused(tasks, limit, message):
    config = tiny_config()
    config.evaluation.tasks, config.gate.tasks = tasks, limit
    with pytest.raises(ValueError, match=message):
        read(config)


def test_inspection_shows_tasks():
    from sleep_jax.inspect import tables

    record = {"days": [{"tasks": side_by_side(BEFORE, AFTER)}]}
    answer = {"stages": [], "recall": [], "tasks": run_record.tasks(record)}
    [(title, columns, rows)] = tables.scores(answer)
    assert title == "Tasks before and after each night"
    assert [*columns] == ["night", "task", "metric", "before", "after", "stderr", "items"]
    assert rows[0] == [1, "a", "acc", 0.5, 0.3, 0.1, 10]
