"""The model's own questions, asked again: which are asked, what is right, and what a night kept."""

import types

import numpy as np
import pytest

from sleep_jax.phases import own_questions as module
from sleep_jax.phases.own_questions import (
    NightQuestions,
    answer_right,
    note_kept,
    note_open_book,
    own_questions,
)
from sleep_jax.phases.run_state import PhaseLogger, RunState
from sleep_jax.report import run_record
from sleep_jax.run_schedule import ScheduledPhase
from sleep_jax.runtime.metrics import MetricWriter, read_metrics
from sleep_jax.study.questions import SelfQuestion
from sleep_jax.study.self_study import Study


def question(name):
    return SelfQuestion(0, "A sentence.", f"{name}?", f"about {name}")


def studied(*names):
    """The record of a day whose study holds out questions of these names."""
    return {"study": Study(tuple(map(question, names)), (), ()).to_record()}


def run_of(*days):
    state = types.SimpleNamespace(variables=lambda params: "now")
    return RunState(state, state, state, {"phases": {}, "days": [*days]})


def experiment_of(count, **more):
    """An experiment that asks `count` questions a day."""
    evaluation = types.SimpleNamespace(own_questions=count, max_new_tokens=8)
    settings = types.SimpleNamespace(
        evaluation=evaluation, study=types.SimpleNamespace(max_question_tokens=24)
    )
    return types.SimpleNamespace(settings=settings, params=None, **more)


def test_questions_are_spread_evenly_over_the_held_out_ones():
    run = run_of(studied(*"abcdef"), {}, studied("a"))
    asked = [[q.question for q in own_questions(experiment_of(3), run, d)] for d in range(3)]
    assert asked == [["b?", "d?", "f?"], [], ["a?"]]


def test_questions_of_a_forgotten_day_are_not_asked():
    run = run_of(studied(*"ab"), studied(*"ab") | {"forgotten": "zeroed"})
    asked = [len(own_questions(experiment_of(2), run, d)) for d in range(2)]
    assert asked == [2, 0] and run.is_forgotten(1) and not run.is_forgotten(2)


def test_day_is_asked_again_what_its_own_night_asked():
    run = note_open_book(run_of(studied(*"abcdef"), studied(*"abcdef")), 0, [True, False, True])
    asked = [[q.question for q in own_questions(experiment_of(6), run, d)] for d in range(2)]
    assert asked == [["b?", "d?", "f?"], [f"{name}?" for name in "abcdef"]]


@pytest.mark.parametrize("context", [None, "documents"])
def test_replies_that_contain_the_answer_or_mean_the_same_are_right(monkeypatch, context):
    calls = []

    def greedy_replies(cfg, variables, tokenizer, prompts, **options):
        calls.append((prompts, options))
        said = {"a?": "It is about A.", "b?": "of b", "c?": ""}
        return [said[prompt[-1]] for prompt in prompts]

    monkeypatch.setattr(module, "greedy_replies", greedy_replies)
    prompts = types.SimpleNamespace(
        without_context=lambda text: ("ask", text),
        with_context=lambda text: ("after", text.rpartition(" ")[2]),
    )
    experiment = experiment_of(
        2, cfg=None, tokenizer=None, prompts=prompts,
        judge=lambda replies, answers: np.array([r == "of b" for r in replies], np.float32),
    )  # fmt: skip
    asked = [question(name) for name in "abc"]
    assert answer_right(experiment, None, asked, context) == [True, True, False]
    [(sent, options)] = calls
    # Rows of two: the fourth asks the first again, so that all calls have one shape.
    assert [prompt[-1] for prompt in sent] == ["a?", "b?", "c?", "a?"]
    assert options["batch"] == 2 and options["width"] >= 24
    assert options["documents"] == (None if context is None else [0, 0, 0, 0])
    assert sent[0][0] == ("ask" if context is None else "after")
    assert answer_right(experiment, None, [], context) == []


def test_night_asks_what_its_teacher_answers_right(monkeypatch):
    right = {("teacher", "a"), ("teacher", "c"), ("student", "b"), ("student", "c")}

    def answer(experiment, variables, questions, context=None):
        assert context == ("documents" if variables == "teacher" else None)
        return [(variables, q.question[0]) in right for q in questions]

    monkeypatch.setattr(module, "answer_right", answer)
    run = run_of(studied("a", "b"), studied("c"))
    teacher = types.SimpleNamespace(variables="teacher", context="documents")
    night = NightQuestions(experiment_of(2), run, [0, 1], teacher, is_open_book=True)
    assert night.right == [True, False, True]
    answers = night.as_answers()
    assert (answers.total, answers.right("student")) == (2, 1)


def test_three_nights_say_what_they_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SLEEP_JAX_QUIET", raising=False)
    # Open book, e is wrong. Each night forgets the first question that it knew.
    known = {1: "ab", 2: "bcd", 3: "dfg"}
    night = 0

    def answer(experiment, variables, questions, context=None):
        if context is not None:
            return [q.question[0] != "e" for q in questions]
        return [q.question[0] in known[night] for q in questions]

    monkeypatch.setattr(module, "answer_right", answer)
    teacher = types.SimpleNamespace(variables="open", context="documents")
    experiment = experiment_of(3)
    run = run_of(studied("a", "b"), studied("c", "d", "e"), studied("f", "g"))
    run = note_open_book(run, 2, [True, False])  # the gate of the third night has asked
    with MetricWriter(tmp_path) as writer:
        for day in range(3):
            night, label = day + 1, f"evaluate-{day + 1}"
            scheduled = ScheduledPhase(label, "evaluate", day=day, rng_stream=0)
            run = note_kept(experiment, run, PhaseLogger(writer, label), scheduled, teacher)
    line = "day 3: 1 of 1 (2 asked), day 2: 1 of 2, day 1: 0 of 2"
    assert run.record["phases"]["evaluate-3"] == {"kept": line}
    assert capsys.readouterr().out.splitlines()[-1] == f"kept: {line}"
    assert run_record.kept(run.record) == [
        ["2 of 2"],
        ["1 of 2", "2 of 2"],
        ["0 of 2", "1 of 2", "1 of 1"],
    ]
    last = read_metrics(tmp_path)[-1]
    assert [last[f"kept_day_{d}"] for d in (1, 2, 3)] == [0, 1, 1]
    assert [last[f"open_book_day_{d}"] for d in (1, 2, 3)] == [2, 2, 1]
    _, columns, rows = run_record.kept_table(run_record.kept(run.record))
    assert columns == ("after night", "day 1", "day 2", "day 3")
    assert rows[0] == ("1", "2 of 2", "", "") and rows[2] == ("3", "0 of 2", "1 of 2", "1 of 1")


def test_days_without_own_questions_say_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "answer_right", lambda *_: [])
    scheduled = ScheduledPhase("evaluate", "evaluate", day=0, rng_stream=0)
    with MetricWriter(tmp_path) as writer:
        logger = PhaseLogger(writer, "evaluate")
        teacher = types.SimpleNamespace(variables="open", context="documents")
        run = note_kept(experiment_of(3), run_of({}), logger, scheduled, teacher)
    assert run.record["phases"] == {} and run_record.kept(run.record) == []
    assert not read_metrics(tmp_path)
