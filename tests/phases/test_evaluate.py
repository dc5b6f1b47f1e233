"""What evaluation shows and records of the stages of a night."""

import types

from sleep_jax.days import Day, EvalQuestion
from sleep_jax.phases import evaluate as module
from sleep_jax.phases.evaluate import STAGES, chance, evaluate
from sleep_jax.phases.run_state import PhaseLogger, RunState
from sleep_jax.run_schedule import ScheduledPhase
from sleep_jax.runtime.metrics import MetricWriter, read_metrics


def asked(document):
    """Two questions about a document and one in other words, all of them answered by "yes"."""
    return [EvalQuestion(0, f"{document} {i}?", ("yes",), is_paraphrase=i == 2) for i in range(3)]


def test_bar_ends_with_closed_book_scores_and_the_ceiling(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SLEEP_JAX_QUIET", raising=False)
    right = {"before": 0, "consolidated": 1, "now": 2, "open": 3}

    def ask(experiment, variables, questions, context=None):
        return ["yes" if i < right[variables] else "no" for i in range(len(questions))]

    monkeypatch.setattr(module, "ask", ask)
    monkeypatch.setattr(module, "anchor_perplexity", lambda *_: 35.0)
    reader = types.SimpleNamespace(variables="open", context="documents")
    monkeypatch.setattr(module, "awake", lambda *_: reader)
    states = [
        types.SimpleNamespace(variables=lambda _, n=n: n) for n in ("now", "before", "consolidated")
    ]
    document = types.SimpleNamespace(title="A kiln")
    days = [Day([document], asked(name)) for name in ("first", "second")]
    experiment = types.SimpleNamespace(
        days=days,
        params=None,
        anchors={"anchor_perplexity": None},
        config=types.SimpleNamespace(
            dreaming=types.SimpleNamespace(steps=1),
            evaluation=types.SimpleNamespace(report_samples=1, own_questions=0, tasks=()),
        ),
    )
    run = RunState(*states, {"phases": {}, "days": [{}, {}]})
    with MetricWriter(tmp_path) as writer:
        scheduled = ScheduledPhase("evaluate-2", "evaluate", day=1, rng_stream=5)
        run = evaluate(experiment, run, PhaseLogger(writer, "evaluate-2"), scheduled)
    last = capsys.readouterr().out.splitlines()[-1]
    assert "questions 1  held-out wordings 0  anchor perplexity 35  open-book ceiling 1  " in last
    assert "earlier days 1" in last
    lines = read_metrics(tmp_path)
    closed, ceiling = lines[2], lines[3]
    assert (closed["questions"], closed["paraphrases"]) == (1.0, 0.0)
    assert ceiling["open_book_questions"] == 1.0 and "questions" not in ceiling
    assert run.record["days"][1]["scores"][STAGES[3]] == {"questions": 1.0, "paraphrases": 1.0}


def test_chance_matches_replies_with_other_questions_of_the_document():
    def question(document, answer, is_paraphrase=False):
        return EvalQuestion(document, "?", (answer,), is_paraphrase)

    questions = [
        question(0, "red"),
        question(0, "red", is_paraphrase=True),  # is no other question
        question(0, "blue"),
        question(0, "red"),  # wants what the first one wants
        question(1, "red"),  # is alone with its document
    ]
    # The reply to "blue" answers both questions that want red; theirs do not answer "blue".
    assert chance(questions, ["red", "red", "red", "green", "red"]) == 2 / 4
    assert chance(questions[3:], ["red", "red"]) is None
