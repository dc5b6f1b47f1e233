"""Self-study: sentences, what is asked about them, and which answers are kept."""

import json
import types

import jax
import numpy as np
import pytest

from sleep_jax.data.documents import Document
from sleep_jax.data.sentences import sentences
from sleep_jax.sampling.generate import Completion
from sleep_jax.seeding import prompts as requests
from sleep_jax.seeding import self_study
from sleep_jax.seeding.prompts import Prompts
from sleep_jax.seeding.self_study import (
    Question,
    Study,
    StudyConfig,
    answer,
    ask,
    complete,
    from_memory,
    hold_out,
    is_about,
    recite,
    rehearse,
    reread,
)
from sleep_jax.seeding.sequences import Exchange

DOCUMENTS = [
    Document("mill", "The Mill", "Anna built the mill in 1832. It ground oats."),
    Document("lamp", "The Lamp", "The lamp is out."),
]


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer)


@pytest.fixture
def script(tokenizer, monkeypatch):
    """Lets the model 'write' given texts, one list of groups for each call; records the calls."""

    def play(*calls):
        seen, remaining = [], list(calls)

        def generate(cfg, sampling, variables, prompts, rng, **options):
            written = remaining.pop(0)
            assert len(written) == len(prompts)
            seen.append({"sampling": sampling, "prompts": prompts, **options})

            def completion(text):
                is_finished = not text.endswith("...")
                ids = tokenizer.encode(text.removesuffix("..."))
                ids += tokenizer.eos_ids[:1] * is_finished
                return Completion(tuple(ids), np.zeros(len(ids)), is_finished)

            return [[completion(text) for text in group] for group in written]

        monkeypatch.setattr(self_study, "generate", generate)
        return seen

    return play


def test_recitation_is_the_text_itself(prompts, tokenizer):
    out = recite(DOCUMENTS, prompts, 2)
    assert [e.document for e in out] == [0, 0, 1, 1]
    assert {e.kind for e in out} == {"recite"} and not any(e.is_imitable for e in out)
    assert tokenizer.decode(out[2].completion) == "The lamp is out."
    assert out[2].completion[-1] == tokenizer.eos_ids[0]
    assert out[2].student == prompts.alone("Tell me about The Lamp.")


def test_completion_cues_are_the_first_words_and_never_all(prompts, tokenizer):
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


def test_cues_of_a_script_without_spaces_are_characters():
    as_it_is = types.SimpleNamespace(**dict.fromkeys(("alone", "beside", "reply"), lambda t: t))
    document = Document("tower", "塔", "灯塔高五十三米。")
    out = complete([document], as_it_is, 20, np.random.default_rng(0))
    cues = {e.student.removeprefix("Complete the sentence: ") for e in out}
    assert cues == {"灯塔高五十三米"[:n] for n in range(2, 7)}
    assert {e.completion for e in out} == {"灯塔高五十三米。"}


def study(cfg, tokenizer, excluded=(), context=None, **options):
    return ask(
        cfg,
        {},
        tokenizer,
        DOCUMENTS,
        context,
        StudyConfig(**options),
        excluded,
        jax.random.key(0),
    )


@pytest.mark.parametrize(
    "question, claim",
    [
        ("Who built the mill?", True),  # "built" and "mill"
        ("Was it a MILL?", True),
        ("Who built the mill.", False),
        ("Who was it?", False),
        ("What did Bert say then?", False),
        ("When, and which?", False),
    ],
)
def test_what_a_question_about_a_sentence_is(question, claim):
    assert is_about(question, "Anna built the mill when she could, which is what it is.") == claim


@pytest.mark.parametrize(
    "question, sentence, claim",
    [
        ("How old is Ann?", "Ann is 93.", True),
        ("What is Ann's?", "It is Bob's hat.", False),  # the 's alone
        ("Wie alt ist Ann?", "Ann ist 93.", True),
        ("Wer war es?", "Es war die Mühle.", False),
        ("Кто построил башню?", "Башня построена инженером.", True),
        ("Кто это был?", "Это был он.", False),
        ("这座塔有多高？", "塔高五十三米。", True),
        ("他是谁？", "这是他的。", False),
        ("塔は誰が建てましたか。", "技師が塔を建てた。", True),
        ("これは何ですか？", "これはペンです。", False),
        ("أين البيت؟", "البيت كبير", True),
        ("Πού είναι ο πύργος;", "ο πύργος είναι εδώ", True),
        ("The mill; when?!", "The mill", False),
        ("", "The mill", False),
    ],
)
def test_a_question_in_any_script_shares_a_content_word(question, sentence, claim):
    assert is_about(question, sentence) == claim


def test_ask_keeps_questions_about_the_text_and_answers_that_it_bears(
    prompts, tokenizer, script, cfg
):
    calls = script(
        [
            ["Who built the mill?\n", "Who built the mill?", "The mill is old."],
            ["What oats did it grind?", "Did Bert eat the oats?", "Oats in 1833?"],
            ["Is the lamp out?", "Is any lamp out?", "Which lamp?"],
        ],
        [["Anna."], ["In 1833."], ["It is..."], [""]],
    )
    context = object()
    questions, drawn = study(cfg, tokenizer, excluded={"Which lamp?"}, context=context, questions=3)
    # A repeated one, a statement, Bert, 1833 and a test question are left out. Of the answers, one
    # is invented, one is unfinished and one is empty.
    mill, oats = sentences(DOCUMENTS[0].text)
    assert questions == [
        Question(0, mill, "Who built the mill?", "Anna."),
        Question(0, oats, "What oats did it grind?", None),
        Question(1, "The lamp is out.", "Is the lamp out?", None),
        Question(1, "The lamp is out.", "Is any lamp out?", None),
    ]
    assert drawn == 9
    first, second = calls
    assert first["prompts"] == [
        prompts.question_about(s) for d in DOCUMENTS for s in sentences(d.text)
    ]
    assert tokenizer.encode("\n")[-1] in first["sampling"].eos_ids
    assert second["context"] is context and second["documents"] == [0, 0, 1, 1]
    assert second["sampling"].temperature == 0
    assert second["prompts"][0] == prompts.beside(
        "Using the text above, answer the question: Who built the mill?"
    )


def test_grounding_can_be_switched_off(tokenizer, script, cfg):
    script([["Why 1831, mill?"], ["No."], ["No."]], [["In 1833."]])
    kept, _ = study(cfg, tokenizer, questions=1, is_grounded=False)
    assert [(q.question, q.answer) for q in kept] == [("Why 1831, mill?", "In 1833.")]


def test_replies_quote_the_sentence_and_answer_where_there_is_an_answer(prompts, tokenizer):
    questions = [
        Question(1, "The lamp is out.", "Is it out?", "Yes."),
        Question(0, "It ground oats.", "What did it grind?", None),
    ]
    out = answer(questions, prompts)
    assert [(e.document, e.kind, tokenizer.decode(e.completion)) for e in out] == [
        (1, "quote", "The lamp is out."),
        (0, "quote", "It ground oats."),
        (1, "answer", "Yes."),
    ]
    assert all(e.is_imitable for e in out)
    assert out[2].student == prompts.alone("Is it out?")
    assert out[2].teacher == prompts.beside(requests.answer("Is it out?"))
    assert out[2].completion == prompts.reply("Yes.")


def test_rehearsal_is_its_own_teacher_without_a_document(prompts, tokenizer, script, cfg):
    script([["Hi.", "Hello."], ["Blue..."]])
    study = StudyConfig(rehearsals=2)
    out = rehearse(cfg, {}, tokenizer, ["Greet me.", "Sky?"], study, jax.random.key(0))
    assert [tokenizer.decode(e.completion) for e in out] == ["Hi.", "Hello.", "Blue"]
    assert {e.document for e in out} == {None} and {e.kind for e in out} == {"rehearse"}
    # In a chat and in plain text, in turn.
    assert out[0].student == prompts.alone("Greet me.") and out[2].student == prompts.plain("Sky?")
    assert all(e.student == e.teacher for e in out)
    assert rehearse(cfg, {}, tokenizer, [], study, jax.random.key(0)) == []


def test_held_out_questions_are_not_learnt():
    questions = [Question(i // 4, "s", f"q{i}?", "a" if i % 2 else None) for i in range(8)]
    held, learnt = hold_out(questions, 1)
    assert [q.question for q in held] == ["q1?", "q5?"]
    assert [q.question for q in learnt] == [f"q{i}?" for i in range(8) if i not in (1, 5)]


def test_held_out_questions_are_spread_over_the_sentences():
    questions = [Question(0, f"s{i // 3}", f"q{i}?", "a") for i in range(15)]
    by_count = {n: [q.question for q in hold_out(questions, n)[0]] for n in (1, 2, 5, 6)}
    assert by_count[1] == ["q6?"] and by_count[2] == ["q3?", "q9?"]
    assert by_count[5] == ["q0?", "q3?", "q6?", "q9?", "q12?"]
    assert by_count[6] == [*by_count[5], "q1?"]
    assert hold_out(questions, 0) == ([], questions)


def test_a_held_out_question_is_not_learnt_in_another_spelling():
    questions = [Question(0, "s", "Who built it?", "a"), Question(0, "t", "who built it", "a")]
    held, learnt = hold_out(questions, 1)
    assert (len(held), learnt) == (1, [])


def test_an_answer_without_a_word_is_not_held_out():
    questions = [Question(0, "s", "q?", "The."), Question(0, "s", "r?", "A")]
    assert [q.question for q in hold_out(questions, 1)[0]] == ["r?"]


def test_a_study_comes_back_from_its_record():
    rehearsed = Exchange(None, (1, 2), (1, 2), (3, 4), "rehearse")
    study = Study((Question(0, "s", "q?", "a"),), (Question(1, "t", "r?", None),), (rehearsed,))
    assert Study.of(json.loads(json.dumps(study.record()))) == study


def test_what_is_told_by_heart_has_no_document():
    seen = Exchange(3, (1, 2), (9, 9, 2), (4, 5), "answer")
    rehearsed = Exchange(None, (1, 2), (1, 2), (3,), "rehearse")
    [told] = from_memory([seen, rehearsed])
    assert (told.document, told.teacher, told.completion) == (None, (1, 2), (4, 5))
    assert told.is_imitable
    [page] = reread([(5, 6, 7), (8,)])
    assert (page.student, page.teacher, page.completion) == ((5,), (5,), (6, 7))
