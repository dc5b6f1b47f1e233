"""Self-study: recitations, completions and answers."""

import dataclasses
import functools
import json
import types

import numpy as np
import pytest
from scripted import scripted

from sleep_jax.data.documents import Document
from sleep_jax.data.sentences import sentences
from sleep_jax.interop.prompts import Prompts, answer_request
from sleep_jax.seeding.sequences import Exchange
from sleep_jax.study import self_study
from sleep_jax.study.questions import SelfQuestion
from sleep_jax.study.self_study import (
    Study,
    answer,
    complete,
    recite,
    reread,
    without_documents,
)
from sleep_jax.study.study_config import StudyConfig

DOCUMENTS = [
    Document("mill", "The Mill", "Anna built the mill in 1832. It ground oats."),
    Document("lamp", "The Lamp", "The lamp is out."),
]


@pytest.fixture
def script(tokenizer, monkeypatch):
    return functools.partial(scripted, monkeypatch, self_study, tokenizer)


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer)


def test_recite_replies_with_the_document(prompts, tokenizer):
    out = recite(DOCUMENTS, prompts, 2)
    assert [e.document for e in out] == [0, 0, 1, 1]
    assert {e.kind for e in out} == {"recite"} and not any(e.is_imitable for e in out)
    assert tokenizer.decode(out[2].completion) == "The lamp is out."
    assert out[2].completion[-1] == tokenizer.eos_ids[0]
    assert out[2].student == prompts.without_context("Tell me about The Lamp.")


def test_complete_cues_are_first_words_and_never_all(prompts, tokenizer):
    out = complete(DOCUMENTS, prompts, 20, np.random.default_rng(0))
    assert len(out) == 60 and {e.kind for e in out} == {"complete"}
    lengths = set()
    for e in out:
        sentence = tokenizer.decode(e.completion)
        assert sentence in sentences(DOCUMENTS[e.document].text)
        cue = tokenizer.decode(e.student).split("Complete the sentence: ")[1].split("\n")[0]
        cue = cue.removesuffix("assistant")
        assert sentence.startswith(cue) and 2 <= len(cue.split()) < len(sentence.split())
        assert f"Complete the sentence from the text: {cue}" in tokenizer.decode(e.teacher)
        lengths.add((sentence, len(cue.split())))
    assert len(lengths) > 4


def test_complete_cues_without_spaces_are_characters():
    identity = types.SimpleNamespace(
        **dict.fromkeys(("without_context", "with_context", "reply"), lambda t: t)
    )
    document = Document("tower", "塔", "灯塔高五十三米。")
    out = complete([document], identity, 20, np.random.default_rng(0))
    cues = {e.student.removeprefix("Complete the sentence: ") for e in out}
    assert cues == {"灯塔高五十三米"[:n] for n in range(2, 7)}
    assert {e.completion for e in out} == {"灯塔高五十三米。"}


def test_answer_quotes_the_sentence_and_gives_the_answer_if_any(prompts, tokenizer):
    questions = [
        SelfQuestion(1, "The lamp is out.", "Is it out?", "Yes."),
        SelfQuestion(0, "It ground oats.", "What did it grind?", None),
    ]
    out = answer(questions, prompts)
    assert [(e.document, e.kind, tokenizer.decode(e.completion)) for e in out] == [
        (1, "quote", "The lamp is out."),
        (0, "quote", "It ground oats."),
        (1, "answer", "Yes."),
    ]
    assert all(e.is_imitable for e in out)
    assert out[2].student == prompts.without_context("Is it out?")
    assert out[2].teacher == prompts.with_context(answer_request("Is it out?"))
    assert out[2].completion == prompts.reply("Yes.")


def test_study_round_trips_through_json():
    rehearsed = Exchange(None, (1, 2), (1, 2), (3, 4), "rehearse")
    study = Study(
        (SelfQuestion(0, "s", "q?", "a"),),
        (SelfQuestion(1, "t", "r?", None),),
        (rehearsed,),
        (Exchange(None, (5, 2), (5, 2), (3,), "earlier"),),
    )
    record = json.loads(json.dumps(study.to_record()))
    assert Study.from_record(record) == study
    del record["earlier"]  # of a run by an older version
    assert Study.from_record(record) == dataclasses.replace(study, earlier=())


def test_without_documents_and_reread():
    answered = Exchange(3, (1, 2), (9, 9, 2), (4, 5), "answer")
    rehearsed = Exchange(None, (1, 2), (1, 2), (3,), "rehearse")
    earlier = Exchange(None, (1, 2), (1, 2), (3,), "earlier")
    [exchange] = without_documents([answered, rehearsed, earlier])
    assert (exchange.document, exchange.teacher, exchange.completion) == (None, (1, 2), (4, 5))
    assert exchange.is_imitable
    [page] = reread([(5, 6, 7), (8,)])
    assert (page.student, page.teacher, page.completion) == ((5,), (5,), (6, 7))


def test_answer_in_view_is_shown_to_the_teacher_of_the_answer_alone(prompts, tokenizer):
    questions = [
        SelfQuestion(0, "Anna built the mill in 1832.", "Who built the mill?", "It was Anna."),
        SelfQuestion(0, "It ground oats.", "What did it grind?", None),
    ]
    plain, out = answer(questions, prompts), answer(questions, prompts, answer_in_view=True)
    assert [e.kind for e in out] == ["quote", "quote", "answer"] and out[:2] == plain[:2]
    request = (
        "Using the text above, answer the question: Who built the mill?\n"
        "The right answer: It was Anna."
    )
    assert out[2].teacher == prompts.with_context(request)
    assert dataclasses.replace(out[2], teacher=plain[2].teacher) == plain[2]
    assert not any("Anna" in tokenizer.decode(e.student) for e in out)
    [closed_book] = without_documents(out[2:])
    assert "Anna" not in tokenizer.decode(closed_book.teacher)


def test_exchanges_without_variants_are_in_the_order_of_their_kinds(prompts):
    """Nothing comes between them, and the same cues are drawn."""
    rehearsed = Exchange(None, (1, 2), (1, 2), (3, 4), "rehearse")
    learnt = SelfQuestion(0, "It ground oats.", "What did it grind?", "Oats.")
    written = Study((), (learnt,), (rehearsed,)).exchanges(DOCUMENTS, prompts, StudyConfig(), 7)
    assert written == [
        *recite(DOCUMENTS, prompts, 1),
        *complete(DOCUMENTS, prompts, 2, np.random.default_rng(7)),
        *answer([learnt], prompts),
        rehearsed,
    ]
