"""Rehearsals: replies to general prompts, and questions about them with them in view."""

import functools

import jax
import pytest
from scripted import scripted

from sleep_jax.data.documents import Document
from sleep_jax.interop.prompts import Prompts, answer_request
from sleep_jax.study import rehearsal
from sleep_jax.study.rehearsal import free_texts, read_again, rehearse
from sleep_jax.study.study_config import StudyConfig


@pytest.fixture
def script(tokenizer, monkeypatch):
    return functools.partial(scripted, monkeypatch, rehearsal, tokenizer)


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer)


def test_rehearse_has_one_prompt_for_teacher_and_student(prompts, tokenizer, script, cfg):
    script([["Hi.", "Hello."], ["Blue..."]])
    study = StudyConfig(rehearsals=2)
    out = rehearse(cfg, {}, tokenizer, ["Greet me.", "Sky?"], study, jax.random.key(0))
    assert [tokenizer.decode(e.completion) for e in out] == ["Hi.", "Hello.", "Blue"]
    assert {e.document for e in out} == {None} and {e.kind for e in out} == {"rehearse"}
    # In a chat and in plain text, in turn.
    assert out[0].student == prompts.without_context("Greet me.") and out[
        2
    ].student == prompts.plain("Sky?")
    assert all(e.student == e.teacher for e in out)
    assert rehearse(cfg, {}, tokenizer, [], study, jax.random.key(0)) == []


def test_rehearse_gives_plain_text_no_tokens_for_thought(prompts, tokenizer, script, cfg):
    calls = script([["Hi."], ["Bye."]], [["Blue."]])
    study = StudyConfig(rehearsals=1, max_answer_tokens=48, thought_tokens=1024)
    topics = ["Greet me.", "Sky?", "Take leave."]
    out = rehearse(cfg, {}, tokenizer, topics, study, jax.random.key(0))
    assert [tokenizer.decode(e.completion) for e in out] == ["Hi.", "Blue.", "Bye."]
    assert [e.student for e in out] == [
        prompts.without_context("Greet me."),
        prompts.plain("Sky?"),
        prompts.without_context("Take leave."),
    ]
    assert [call["sampling"].max_new_tokens for call in calls] == [1072, 48]
    script([["Hi."]], [])
    assert len(rehearse(cfg, {}, tokenizer, topics[:1], study, jax.random.key(0))) == 1


def test_replies_are_as_long_as_answers_unless_they_have_their_own_length():
    study = StudyConfig(max_answer_tokens=8, thought_tokens=100)
    assert study.rehearsal_lengths(3) == [108, 8, 108]
    assert (
        StudyConfig(max_answer_tokens=8, max_rehearsal_tokens=64).rehearsal_lengths(2) == [64] * 2
    )


@pytest.fixture
def rehearsed(prompts, tokenizer, script, cfg):
    """Two replies to a topic: of one sentence, and of none."""
    script([["The tide is high.", "--"]])
    return rehearse(cfg, {}, tokenizer, ["Tides?"], StudyConfig(rehearsals=2), jax.random.key(0))


def test_read_again_asks_about_a_reply_with_it_in_view(prompts, tokenizer, script, cfg, rehearsed):
    calls = script([["Is the tide high?\nNo."]], [["Yes."]])
    study = StudyConfig(rehearsals=2, readings=3, max_question_tokens=9, max_answer_tokens=7)
    [exchange] = read_again(
        cfg, {}, tokenizer, ["Tides?"], rehearsed, study, 448, jax.random.key(0)
    )
    page = Document("", "Tides?", "The tide is high.")
    in_view = answer_request("Is the tide high?")
    expected = prompts.context(page) + prompts.with_context(in_view)
    assert exchange.student == exchange.teacher == expected
    assert exchange.is_known and exchange.is_closed_book
    assert tokenizer.decode(exchange.completion) == "Yes."
    assert [call["sampling"].max_new_tokens for call in calls] == [9, 7]
    assert calls[0]["prompts"] == [prompts.question_prompt("The tide is high.")]


def test_read_again_drops_what_is_no_question_or_longer_than_a_row(
    tokenizer, script, cfg, rehearsed
):
    study = StudyConfig(rehearsals=2, readings=1)
    again = functools.partial(read_again, cfg, {}, tokenizer, ["Tides?"], rehearsed)
    script([["It is."]], [])
    assert again(study, 448, jax.random.key(0)) == []
    script([["Is the tide high?"]], [["Yes."]])
    assert again(study, 20, jax.random.key(0)) == []
    assert again(StudyConfig(rehearsals=2), 448, jax.random.key(0)) == []


def test_free_texts_begin_with_words_and_go_on_at_the_models_own_temperature(
    tokenizer, script, cfg
):
    calls = script([["on"], ["off..."], [""]])
    study = StudyConfig(free_texts=3, max_answer_tokens=8, max_rehearsal_tokens=64)
    out = free_texts(cfg, {}, tokenizer, study, jax.random.key(0))
    assert [e.student for e in out] == calls[0]["prompts"]
    assert [e.completion[-1] in tokenizer.eos_ids for e in out] == [True, False, True]
    for e in out:
        *start, word = e.student
        assert tuple(start) == tokenizer.text_start and tokenizer.decode([word]).strip().isalpha()
        assert e.is_known and e.is_closed_book
    sampling = calls[0]["sampling"]
    assert (sampling.temperature, sampling.max_new_tokens) == (1.0, 64)
    script([["on"], ["off"], [""]])
    assert [e.student for e in free_texts(cfg, {}, tokenizer, study, jax.random.key(1))] != [
        e.student for e in out
    ]
