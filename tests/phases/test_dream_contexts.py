"""The dream contexts: today's documents, and earlier ones as the model's own dreams have them."""

import dataclasses
import runpy

import jax
import ml_collections
import numpy as np
import pytest

from sleep_jax import lifecycle
from sleep_jax.dreaming import write
from sleep_jax.dreaming.curriculum import DreamContext
from sleep_jax.dreaming.write import Dream
from sleep_jax.experiment import load_experiment
from sleep_jax.phases import dream_contexts
from sleep_jax.study.questions import SelfQuestion
from sleep_jax.study.self_study import Study


@pytest.fixture(scope="module")
def experiment():
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.data.episodes = 2
    return load_experiment(config)


def under(experiment, **curriculum):
    """The same experiment with another curriculum."""
    config = ml_collections.ConfigDict(experiment.config.to_dict())
    config.dreaming.curriculum.update(curriculum)
    return dataclasses.replace(experiment, config=ml_collections.FrozenConfigDict(config))


@pytest.fixture(scope="module")
def run(experiment):
    """The second night: both days have been studied, the first has been dreamt about."""
    out = lifecycle.init_run_state(experiment)
    for day in range(2):
        question = SelfQuestion(0, "A sentence.", f"What is day {day}?", f"It is {day}.")
        out = out.note_day(day, study=Study((question,), (), ()).to_record())
    out, figures = dream_contexts.draw_dream_contexts(experiment, out, 0)
    assert figures == {"contexts_recent": 1, "contexts_weak": 0, "contexts_old": 0}
    dreams = [Dream(0, "paraphrase", (5, 6, i), f"Dream {i}.") for i in (7, 8)]
    return out.note_day(0, dreams=[dataclasses.asdict(x) for x in dreams])


def test_weak_documents_are_recollected_from_dreams(experiment, run):
    drawn, figures = dream_contexts.draw_dream_contexts(experiment, run, 1)
    assert [figures[f"contexts_{role}"] for role in dream_contexts.ROLES] == [1, 1, 0]
    assert np.isfinite([figures["tau_recent"], figures["tau_weak"]]).all()
    today, earlier = dream_contexts.pages(experiment, drawn, 1)
    assert today == experiment.days[1].documents[0]
    assert earlier.title == experiment.days[0].documents[0].title
    assert earlier.text == "Dream 7.\nDream 8."
    subjects = dream_contexts.subjects(experiment, drawn, 1)
    assert {page: (x.day, x.role) for page, x in subjects.items()} == {
        0: (1, "recent"),
        1: (0, "weak"),
    }
    items = dream_contexts.reward_items(experiment, drawn, 1)
    assert [(x.document, x.question) for x in items.items] == [
        (0, "What is day 1?"),
        (1, "What is day 0?"),
    ]
    assert dream_contexts.rehearsed(experiment, drawn, 1) == []


def test_own_question_that_became_a_test_question_rewards_no_dream(experiment, run):
    later = experiment.days[1].questions[0].text
    study = Study((SelfQuestion(0, "A sentence.", later, "It is."),), (), ())
    contexts = [DreamContext(1, 0, "recent"), DreamContext(0, 0, "weak")]
    run = run.note_day(0, study=study.to_record())
    run = run.note_day(1, dream_contexts=[dataclasses.asdict(x) for x in contexts])
    items = dream_contexts.reward_items(experiment, run, 1)
    assert [(x.document, x.question) for x in items.items] == [(0, "What is day 1?")]
    with pytest.raises(AssertionError, match="test question"):
        dream_contexts.reward_items(experiment, run.note_day(1, study=study.to_record()), 1)


def test_source_text_keeps_the_text(experiment, run):
    other = under(experiment, source="text")
    drawn, _ = dream_contexts.draw_dream_contexts(other, run, 1)
    assert dream_contexts.pages(other, drawn, 1)[1] == experiment.days[0].documents[0]


def test_source_text_draws_documents_without_dreams(experiment, run):
    undreamt = run.note_day(0, dreams=[])
    drawn, figures = dream_contexts.draw_dream_contexts(experiment, undreamt, 1)
    assert figures["contexts_weak"] == figures["contexts_old"] == 0
    other = under(experiment, source="text", weak=0)
    drawn, _ = dream_contexts.draw_dream_contexts(other, undreamt, 1)
    [rehearsal], document = (
        dream_contexts.rehearsed(other, drawn, 1),
        experiment.days[0].documents[0],
    )
    assert rehearsal.is_closed_book
    assert rehearsal.completion == experiment.prompts.reply(document.text)


def test_recollection_prefers_rewarded_dreams(experiment, run):
    kept = [{"dream": 1, "importance": 0.5}, {"dream": 0, "importance": 0.2}]
    run = run.note_day(0, kept=kept, rewards=[1.0, 0.0])
    drawn, _ = dream_contexts.draw_dream_contexts(experiment, run, 1)
    assert dream_contexts.pages(experiment, drawn, 1)[1].text == "Dream 8."
    assert dream_contexts.dreamt_before(experiment, drawn, 1)[1] == ["Dream 7.", "Dream 8."]
    other = under(experiment, weak=0)
    drawn, _ = dream_contexts.draw_dream_contexts(other, run, 1)
    assert [e.completion for e in dream_contexts.rehearsed(other, drawn, 1)] == [(5, 6, 8)]


def test_old_documents_are_rehearsed_closed_book(experiment, run):
    other = under(experiment, weak=0)
    drawn, figures = dream_contexts.draw_dream_contexts(other, run, 1)
    assert figures["contexts_old"] == 1 and len(dream_contexts.pages(other, drawn, 1)) == 1
    exchanges = dream_contexts.rehearsed(other, drawn, 1)
    assert [e.completion for e in exchanges] == [(5, 6, 7), (5, 6, 8)]
    assert all(e.is_closed_book and e.kind == "rehearse" for e in exchanges)


def test_dreams_about_a_recollection_count_for_its_document(experiment, run):
    """A third night finds the dreams of the second about the first day's document, too."""
    days = (*experiment.days, experiment.days[1])
    longer = dataclasses.replace(experiment, days=days)
    drawn, _ = dream_contexts.draw_dream_contexts(experiment, run, 1)
    again = dataclasses.asdict(Dream(1, "paraphrase", (4,), "Dream 9."))
    drawn = drawn.note_day(1, dreams=[again])
    drawn, _ = dream_contexts.draw_dream_contexts(longer, drawn, 2)
    assert dream_contexts.pages(longer, drawn, 2)[-1].text == "Dream 7.\nDream 8.\nDream 9."
    before = {0: [], 1: ["Dream 7.", "Dream 8.", "Dream 9."]}
    assert dream_contexts.dreamt_before(longer, drawn, 2) == before


@pytest.mark.slow
def test_second_night_dreams_about_both_days(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "dream_rejection_reason", lambda *_: None)
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.data.episodes = 2
    config.study.max_answer_tokens = 24
    experiment = load_experiment(config)
    run = lifecycle.run(experiment, str(tmp_path), quiet=True)
    assert [x["role"] for x in run.day(1)["dream_contexts"]] == ["recent", "weak"]
    assert {x["document"] for x in run.day(1)["dreams"]} == {0, 1}
    assert jax.tree.all(jax.tree.map(lambda x: bool(np.isfinite(x).all()), run.current.memory))


@pytest.mark.parametrize("source", ["dreams", "text"])
def test_forgotten_days_are_not_dreamt_about(experiment, run, source):
    chosen = under(experiment, source=source)
    assert dream_contexts._earlier(chosen, run, 1) == [(0, 0)]
    assert dream_contexts._earlier(chosen, run.note_day(0, forgotten="zeroed"), 1) == []
