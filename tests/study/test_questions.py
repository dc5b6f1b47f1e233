"""Questions that the model writes: which are about their sentence, which answers are kept."""

import functools

import jax
import pytest
from families import qwen3
from scripted import scripted

from sleep_jax.data.documents import Document
from sleep_jax.data.sentences import sentences
from sleep_jax.interop.prompts import Prompts
from sleep_jax.study import questions as module
from sleep_jax.study.questions import (
    SelfQuestion,
    answers_from,
    hold_out,
    is_about,
    write_questions,
)
from sleep_jax.study.study_config import StudyConfig

DOCUMENTS = [
    Document("mill", "The Mill", "Anna built the mill in 1832. It ground oats."),
    Document("lamp", "The Lamp", "The lamp is out."),
]


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer)


@pytest.fixture
def script(tokenizer, monkeypatch):
    return functools.partial(scripted, monkeypatch, module, tokenizer)


def study(cfg, tokenizer, excluded=(), context=None, **options):
    return write_questions(
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
def test_is_about_requires_a_question_with_a_common_content_word(question, claim):
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
        ("ใครดูแลประภาคารนี้?", "อันนาดูแลประภาคาร", True),
        ("ท้องฟ้าสีอะไร?", "อันนาดูแลประภาคาร", False),
        ("أين البيت؟", "البيت كبير", True),
        ("Πού είναι ο πύργος;", "ο πύργος είναι εδώ", True),
        ("The mill; when?!", "The mill", False),
        ("", "The mill", False),
    ],
)
def test_is_about_in_other_scripts(question, sentence, claim):
    assert is_about(question, sentence) == claim


def test_write_questions_keeps_questions_about_the_text_and_grounded_answers(
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
    # Left out: a repetition, a statement, two invented facts (Bert, 1833) and a test question. Of
    # the answers one is invented, one unfinished and one empty.
    mill, oats = sentences(DOCUMENTS[0].text)
    assert questions == [
        SelfQuestion(0, mill, "Who built the mill?", "Anna."),
        SelfQuestion(0, oats, "What oats did it grind?", None),
        SelfQuestion(1, "The lamp is out.", "Is the lamp out?", None),
        SelfQuestion(1, "The lamp is out.", "Is any lamp out?", None),
    ]
    assert drawn == 9
    first, second = calls
    assert first["prompts"] == [
        prompts.question_prompt(s) for d in DOCUMENTS for s in sentences(d.text)
    ]
    assert set(tokenizer.line_end_ids) < set(first["sampling"].eos_ids)
    assert second["context"] is context and second["documents"] == [0, 0, 1, 1]
    assert second["sampling"].temperature == 0
    assert second["prompts"][0] == prompts.with_context(
        "Using the text above, answer the question: Who built the mill?"
    )


def test_write_questions_without_grounding(tokenizer, script, cfg):
    script([["Why 1831, mill?"], ["No."], ["No."]], [["In 1833."]])
    kept, _ = study(cfg, tokenizer, questions=1, is_grounded=False)
    assert [(q.question, q.answer) for q in kept] == [("Why 1831, mill?", "In 1833.")]


def test_write_questions_drops_answers_that_are_not_from_the_sentence(tokenizer, script, cfg):
    asked = [["Who built the mill?"], ["Did Anna grind oats?"], ["No."]]
    for chosen, answers in ((False, ["Anna built it.", "Anna."]), (True, ["Anna built it.", None])):
        script(asked, [["Anna built it."], ["Anna."]])
        kept, _ = study(cfg, tokenizer, questions=1, answer_in_sentence=chosen)
        assert [q.answer for q in kept] == answers


@pytest.mark.parametrize(
    ("reply", "claim"),
    [
        ("The lamp burned walnut oil.", True),
        ("Walnut.", True),
        ("That lamp.", False),
        ("It stands on Gannet Tooth.", False),
        ("Yes.", False),
        ("", False),
    ],
)
def test_answers_from_has_a_word_of_the_sentence_beyond_the_question(reply, claim):
    sentence = "For sixty years the lamp burned walnut oil."
    assert answers_from(reply, "What did the lamp burn?", sentence) == claim


@pytest.mark.parametrize("has_family", [False, True])
def test_write_questions_keeps_the_first_line(tokenizer, monkeypatch, has_family):
    """Qwen3's tokenizer has one token for a question mark and the line breaks after it."""
    tokenizer = qwen3() if has_family else tokenizer
    written = [["Who built the mill?\n\nSentence: x"], ["Why?\n"], [" \nIs the lamp out?"]]
    calls = scripted(monkeypatch, module, tokenizer, written, [["Anna."]])
    [question], _ = study(None, tokenizer, questions=1)
    assert (question.question, question.answer) == ("Who built the mill?", "Anna.")
    mark = tokenizer.encode("?\n\n")
    assert len(mark) == (1 if has_family else 3)
    assert mark[-1] in calls[0]["sampling"].eos_ids


def test_hold_out_removes_held_out_questions():
    questions = [SelfQuestion(i // 4, "s", f"q{i}?", "a" if i % 2 else None) for i in range(8)]
    held_out, learnt = hold_out(questions, 1)
    assert [q.question for q in held_out] == ["q1?", "q5?"]
    assert [q.question for q in learnt] == [f"q{i}?" for i in range(8) if i not in (1, 5)]


def test_hold_out_spreads_questions_over_the_sentences():
    questions = [SelfQuestion(0, f"s{i // 3}", f"q{i}?", "a") for i in range(15)]
    by_count = {n: [q.question for q in hold_out(questions, n)[0]] for n in (1, 2, 5, 6)}
    assert by_count[1] == ["q6?"] and by_count[2] == ["q3?", "q9?"]
    assert by_count[5] == ["q0?", "q3?", "q6?", "q9?", "q12?"]
    assert by_count[6] == [*by_count[5], "q1?"]
    assert hold_out(questions, 0) == ([], questions)


def test_hold_out_removes_other_spellings():
    questions = [
        SelfQuestion(0, "s", "Who built it?", "a"),
        SelfQuestion(0, "t", "who built it", "a"),
    ]
    held_out, learnt = hold_out(questions, 1)
    assert (len(held_out), learnt) == (1, [])


def test_hold_out_skips_answers_without_content():
    questions = [SelfQuestion(0, "s", "q?", "The."), SelfQuestion(0, "s", "r?", "A")]
    assert [q.question for q in hold_out(questions, 1)[0]] == ["r?"]
