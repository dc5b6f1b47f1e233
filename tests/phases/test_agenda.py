"""The agenda: today's documents, and earlier ones as the model's own dreams have them."""

import dataclasses
import runpy

import jax
import ml_collections
import numpy as np
import pytest

from sleep_jax import lifecycle
from sleep_jax.dreaming import write
from sleep_jax.dreaming.write import Dream
from sleep_jax.phases import agenda
from sleep_jax.seeding.questions import Question
from sleep_jax.seeding.self_study import Study
from sleep_jax.sleeper import wake_up


@pytest.fixture(scope="module")
def sleeper():
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.data.episodes = 2
    return wake_up(config)


def under(sleeper, **curriculum):
    """The same sleeper with another curriculum."""
    config = ml_collections.ConfigDict(sleeper.config.to_dict())
    config.dreaming.curriculum.update(curriculum)
    return dataclasses.replace(sleeper, config=ml_collections.FrozenConfigDict(config))


@pytest.fixture(scope="module")
def night(sleeper):
    """The second night: both days have been studied, the first has been dreamt about."""
    out = lifecycle.birth(sleeper)
    for day in range(2):
        own = Question(0, "A sentence.", f"What is day {day}?", f"It is {day}.")
        out = out.note_day(day, study=Study((own,), (), ()).record())
    out, figures = agenda.draw_agenda(sleeper, out, 0)
    assert figures == {"contexts_recent": 1, "contexts_weak": 0, "contexts_old": 0}
    dreams = [Dream(0, "paraphrase", (5, 6, i), f"Dream {i}.") for i in (7, 8)]
    return out.note_day(0, dreams=[dataclasses.asdict(x) for x in dreams])


def test_a_weak_document_is_dreamt_about_from_what_was_dreamt(sleeper, night):
    drawn, figures = agenda.draw_agenda(sleeper, night, 1)
    assert [figures[f"contexts_{role}"] for role in agenda.ROLES] == [1, 1, 0]
    assert np.isfinite([figures["tau_recent"], figures["tau_weak"]]).all()
    today, earlier = agenda.pages(sleeper, drawn, 1)
    assert today == sleeper.days[1].documents[0]
    assert earlier.title == sleeper.days[0].documents[0].title
    assert earlier.text == "Dream 7.\nDream 8."
    subjects = agenda.subjects(sleeper, drawn, 1)
    assert {page: (x.day, x.role) for page, x in subjects.items()} == {
        0: (1, "recent"),
        1: (0, "weak"),
    }
    items = agenda.reward_items(sleeper, drawn, 1)
    assert [(x.document, x.question) for x in items.items] == [
        (0, "What is day 1?"),
        (1, "What is day 0?"),
    ]
    assert agenda.rehearsed(sleeper, drawn, 1) == []


def test_a_replay_buffer_keeps_the_text(sleeper, night):
    other = under(sleeper, source="text")
    drawn, _ = agenda.draw_agenda(other, night, 1)
    assert agenda.pages(other, drawn, 1)[1] == sleeper.days[0].documents[0]


def test_a_replay_buffer_knows_documents_that_nothing_was_dreamt_about(sleeper, night):
    undreamt = night.note_day(0, dreams=[])
    drawn, figures = agenda.draw_agenda(sleeper, undreamt, 1)
    assert figures["contexts_weak"] == figures["contexts_old"] == 0
    other = under(sleeper, source="text", weak=0)
    drawn, _ = agenda.draw_agenda(other, undreamt, 1)
    [rehearsal], document = agenda.rehearsed(other, drawn, 1), sleeper.days[0].documents[0]
    assert rehearsal.is_by_heart
    assert rehearsal.completion == sleeper.prompts.reply(document.text)


def test_of_earlier_dreams_those_that_earned_a_reward_are_what_is_left(sleeper, night):
    kept = [{"dream": 1, "importance": 0.5}, {"dream": 0, "importance": 0.2}]
    night = night.note_day(0, kept=kept, rewards=[1.0, 0.0])
    drawn, _ = agenda.draw_agenda(sleeper, night, 1)
    assert agenda.pages(sleeper, drawn, 1)[1].text == "Dream 8."
    assert agenda.dreamt_before(sleeper, drawn, 1)[1] == ["Dream 7.", "Dream 8."]
    other = under(sleeper, weak=0)
    drawn, _ = agenda.draw_agenda(other, night, 1)
    assert [e.completion for e in agenda.rehearsed(other, drawn, 1)] == [(5, 6, 8)]


def test_of_an_old_document_the_dreams_are_rehearsed_by_heart(sleeper, night):
    other = under(sleeper, weak=0)
    drawn, figures = agenda.draw_agenda(other, night, 1)
    assert figures["contexts_old"] == 1 and len(agenda.pages(other, drawn, 1)) == 1
    exchanges = agenda.rehearsed(other, drawn, 1)
    assert [e.completion for e in exchanges] == [(5, 6, 7), (5, 6, 8)]
    assert all(e.is_by_heart and e.kind == "rehearse" for e in exchanges)


def test_what_was_recollected_counts_as_dreamt_about_the_document(sleeper, night):
    """A third night finds the dreams of the second about the first day's document, too."""
    days = (*sleeper.days, sleeper.days[1])
    longer = dataclasses.replace(sleeper, days=days)
    drawn, _ = agenda.draw_agenda(sleeper, night, 1)
    again = dataclasses.asdict(Dream(1, "paraphrase", (4,), "Dream 9."))
    drawn = drawn.note_day(1, dreams=[again])
    drawn, _ = agenda.draw_agenda(longer, drawn, 2)
    assert agenda.pages(longer, drawn, 2)[-1].text == "Dream 7.\nDream 8.\nDream 9."
    before = {0: [], 1: ["Dream 7.", "Dream 8.", "Dream 9."]}
    assert agenda.dreamt_before(longer, drawn, 2) == before


@pytest.mark.slow
def test_the_second_night_dreams_about_both_days(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "flaw", lambda *_: None)
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.data.episodes = 2
    config.study.max_answer_tokens = 24
    sleeper = wake_up(config)
    night = lifecycle.live(sleeper, str(tmp_path), quiet=True)
    assert [x["role"] for x in night.day(1)["agenda"]] == ["recent", "weak"]
    assert {x["document"] for x in night.day(1)["dreams"]} == {0, 1}
    assert jax.tree.all(jax.tree.map(lambda x: bool(np.isfinite(x).all()), night.now.memory))
