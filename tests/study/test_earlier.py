"""Questions of earlier days, asked again."""

import jax
import pytest
from scripted import scripted

from sleep_jax.interop.prompts import Prompts
from sleep_jax.study import earlier
from sleep_jax.study.earlier import ask_again, draw_questions
from sleep_jax.study.questions import SelfQuestion
from sleep_jax.study.self_study import Study
from sleep_jax.study.study_config import StudyConfig

QUESTIONS = [SelfQuestion(0, f"Text {i}.", f"What is {i}?", f"It is {i}.") for i in range(6)]
UNANSWERED = SelfQuestion(0, "Text.", "Why?", None)
STUDIES = [
    Study((QUESTIONS[0],), (QUESTIONS[1], UNANSWERED, QUESTIONS[2]), ()),
    Study((), tuple(QUESTIONS[3:]), ()),
]


def test_draw_questions_takes_learnt_ones_of_all_days_once():
    drawn = draw_questions(STUDIES, 10, jax.random.key(0))
    learnt = [*QUESTIONS[1:], UNANSWERED]
    assert sorted(q.question for q in drawn) == sorted(q.question for q in learnt)
    answered = draw_questions(STUDIES, 10, jax.random.key(0), is_answered=True)
    assert sorted(q.question for q in answered) == [q.question for q in QUESTIONS[1:]]
    assert draw_questions(STUDIES, 3, jax.random.key(0)) == drawn[:3]
    assert draw_questions(STUDIES, 10, jax.random.key(1)) != drawn
    assert draw_questions(STUDIES, 0, jax.random.key(0)) == []
    assert draw_questions([], 3, jax.random.key(0)) == []


@pytest.fixture
def script(monkeypatch, tokenizer):
    return lambda *calls: scripted(monkeypatch, earlier, tokenizer, *calls)


def test_ask_again_learns_what_the_teacher_says_now(script, tokenizer, cfg):
    calls = script([["One."], [""], ["Three..."]])
    config = StudyConfig(max_answer_tokens=9, thought_tokens=4)
    out = ask_again(cfg, {}, tokenizer, QUESTIONS[:3], config, jax.random.key(0))
    prompts = Prompts(tokenizer)
    asked = [prompts.without_context(q.question) for q in QUESTIONS[:3]]
    assert [call["prompts"] for call in calls] == [asked]
    assert (calls[0]["sampling"].temperature, calls[0]["sampling"].max_new_tokens) == (0.0, 13)
    assert [tokenizer.decode(e.completion) for e in out] == ["One.", "", "Three"]
    assert [e.student for e in out] == asked
    assert all(e.kind == "earlier" and e.is_known and e.is_closed_book for e in out)
    assert not any(e.is_imitable or e.supervised for e in out)


def test_ask_again_learns_the_stored_answer_and_no_text_of_the_document(script, tokenizer, cfg):
    calls = script()
    config = StudyConfig(earlier_answers="stored")
    out = ask_again(cfg, {}, tokenizer, QUESTIONS[:2], config, jax.random.key(0))
    prompts = Prompts(tokenizer)
    assert [e.completion for e in out] == [prompts.reply("It is 0."), prompts.reply("It is 1.")]
    assert not calls and all(e.is_closed_book for e in out)
    assert ask_again(cfg, {}, tokenizer, [], config, jax.random.key(0)) == []
