"""Units of text: sentences of several languages, lists, headings, tables, keys, wrapped lines."""

import textwrap

import numpy as np
import pytest

from sleep_jax.data.documents import read_source
from sleep_jax.data.sentences import sentence_ends, sentences, word_ends


@pytest.mark.parametrize(
    "text, want",
    [
        ("One. Two! Three? Four.", ["One.", "Two!", "Three?", "Four."]),
        ("It is 3.5 m high. 7 men built it.", ["It is 3.5 m high.", "7 men built it."]),
        ("She said e.g. this and\nthat. Then left", ["She said e.g. this and\nthat.", "Then left"]),
        ("  First.\n\nSecond.  ", ["First.", "Second."]),
        ('He said "Go." Then he left.', ['He said "Go."', "Then he left."]),
        ("It rose (by 3 m.) The men (all) fled.", ["It rose (by 3 m.)", "The men (all) fled."]),
        ('It ended. "Why?" she asked.', ["It ended.", '"Why?" she asked.']),
        ("Élan came. ¿Cómo? Así.", ["Élan came.", "¿Cómo?", "Así."]),
        (
            "Dr. Imane Tazi took, e.g. 412 samples, to Prof. J. K. Oost. She left.",
            ["Dr. Imane Tazi took, e.g. 412 samples, to Prof. J. K. Oost.", "She left."],
        ),
        ("Use version 3.10.1. Then stop.", ["Use version 3.10.1.", "Then stop."]),
        ("", []),
        ("...\n\n---", []),
    ],
)
def test_sentences_of_english(text, want):
    assert sentences(text) == want


@pytest.mark.parametrize(
    "units",
    [
        ["Die Mühle steht am Bach.", "Über dem Tor hängt, z. B. für Feuer, eine Glocke."],
        ["Dr. Karl Ott wohnt im 3. Stock.", "Ärzte kamen am 3. Mai.", "Es waren zwei."],
        ["Маяк стоит на скале.", "Его построил О. Баскейл.", "Ёлки растут рядом."],
        ["灯塔高五十三米。", "真的吗？", "是的！"],
        ["灯台は岩の上に立つ。", "「本当ですか？」と彼は言った。", "五十三メートルだ。"],
        ["यह घर है।", "वह जाता है।"],
        ["هل هذا بيت؟", "نعم."],
        ["อันนาดูแลประภาคาร แมวกินปลา"],  # Thai has no mark between sentences
    ],
)
def test_sentences_of_other_languages(units):
    space = "" if "。" in units[0] else " "
    assert sentences(space.join(units)) == units


@pytest.mark.parametrize(
    "text, want",
    [
        ("# The Mill\nIt stands.\n\nOld Days\n========\nIt stood.",
         ["The Mill", "It stands.", "Old Days", "It stood."]),
        ("- Open it. Wait.\n* Close the lid\n• Vent\n  - [x] Pay the\n    rent",
         ["Open it.", "Wait.", "Close the lid", "Vent", "Pay the\n    rent"]),
        ("1. Open the door.\n2) Wait. It is hot.\n(3) Go",
         ["1. Open the door.", "2) Wait.", "It is hot.", "(3) Go"]),
        ("・一つ目\n・二つ目\n\n一、先预热。\n二、等待。",
         ["一つ目", "二つ目", "一、先预热。", "二、等待。"]),
        ("| Cone | Heat |\n|---|---|\n| 04 | 1060. Or so |", ["Cone | Heat", "04 | 1060. Or so"]),
        ("Cone\tHeat\n04\t1060 °C", ["Cone\tHeat", "04\t1060 °C"]),
        ("Name: Dr. Ann Lee\n**Born:** 1931\n高さ：53メートル",
         ["Name: Dr. Ann Lee", "**Born:** 1931", "高さ：53メートル"]),
        ("Shopping\nmilk\nEggs", ["Shopping", "milk", "Eggs"]),
        ("> He left,\n> and she stayed.\n```\nx = 1\n```", ["He left,\nand she stayed.", "x = 1"]),
    ],
)  # fmt: skip
def test_items_headings_rows_and_keys_are_units(text, want):
    assert sentences(text) == want


def test_list_items_are_units():
    assert sentences("- one\n- two\n- three\n- four") == ["one", "two", "three", "four"]


PROSE = [
    "Dr. Imane Tazi went, e.g. 412 times, to see Prof. J. K. Oost. Then Mr. Ott came: Note the "
    "day. He said: Go home. In 1931 Ann left, and the others, whom nobody knew, stayed on.",
    "Die Mühle steht am Bach. Der Müller wohnt im 3. Stock. Prof. Karl Ott kam nach Hask.",
]


@pytest.mark.parametrize("text", PROSE)
@pytest.mark.parametrize("width", [44, 59, 72, 100])
def test_sentences_do_not_depend_on_wrapping(text, width):
    wrapped = textwrap.fill(text, width, break_on_hyphens=False)
    assert [" ".join(unit.split()) for unit in sentences(wrapped)] == sentences(text)


def test_sentences_of_samples_match_full_stops():
    for document in read_source("samples").documents:
        assert " ".join(sentences(document.text)) == document.text
        assert len(sentences(document.text)) == document.text.count(". ") + 1


def test_sentence_ends_are_lossless():
    assert sentence_ends("Mr. Ott. Two\nlines.") == [9, 13, 19]
    assert sentence_ends("灯台は。塔だ。") == [4, 7] and sentence_ends("") == []
    assert sentences("One. \ud83d Two.") == ["One.", "\ud83d Two."]
    rng = np.random.default_rng(0)
    for _ in range(500):
        text = "".join(
            rng.choice(list("ab A.!?。」と\n\r\t|-#*:1）'\"()é\u2028"), rng.integers(25))
        )
        ends = sentence_ends(text)
        assert ends == sorted(set(ends)) and [0, *ends][-1] == len(text)
        assert all(unit in text.replace("\r", "\n") or "\n" in unit for unit in sentences(text))


def test_word_ends_by_hand():
    assert word_ends(" It is, so.") == [3, 7, 11]
    assert word_ends("塔高53米。") == [1, 2, 4, 5, 6]
