"""Normalisation of answers: symbols that do not matter, and symbols that do."""

import pytest

from sleep_jax.data.answers import (
    answer_words,
    canonical,
    content_words,
    fold_accents,
    normalize_characters,
    spell_symbols,
    words,
)

# Spellings of one answer in each row.
ALIKE = [
    [
        "Paris",
        "«Paris»",
        "„Paris“",
        "¿Paris?",
        "•Paris",
        "Par\u200bis",
        "“Paris”…",
        "‹Paris›",
        "PARIS",
    ],
    ["1260 °C", "1260°C", "1260 ℃", "1260\u00a0ºC", "1260 degrees Celsius"],
    ["well-known", "well\u2010known", "well\u2011known", "well\u2013known", "well known"],
    ["-5", "−5", "－5", "–5", "-5.0"],
    ["$5", "5 dollars", "US$5", "＄5", "5 USD", "five dollars"],
    ["1,250 people", "1\u202f250 people", "1250 people"],
    ["12 %", "12%", "１２％", "twelve per cent"],
    ["Zürich", "Zu\u0308rich", "Zurich"],
    ["Straße", "STRASSE"],
    ["fine", "ﬁne"],
    ["東京", "「東京」", "東京。"],
    ["五十三米", "53米"],
    ["٥٣", "53", "fifty-three"],
    ["10²", "10^2"],
    ["5 m²", "5 sq m", "five square metres"],
    ["Acme", "Acme™"],
    ["½", "1/2"],
    ["vitamin A", "Vitamin a"],
    ["U.S. Army", "US army"],
    ["हिन्दी", "हिन्दी।"],
]
# Different answers in each row.
UNLIKE = [
    ["pH < 7", "pH > 7", "pH 7", "pH ≤ 7"],
    [
        "$5",
        "€5",
        "£5",
        "¥5",
        "₱5",
        "฿5",
        "5",
        "5%",
        "5 °C",
        "5 °F",
        "5‰",
        "-5",
        "<5",
        ">5",
        "±5",
        "5+",
    ],
    ["O+", "O-", "O"],
    ["A+", "A-", "A", "B"],
    ["C", "C++", "C#", "B♭", "B"],
    ["Vitamin A", "Vitamin B", "Vitamin"],
    ["3.10", "3.1.0", "3.01", "3:10", "310"],
    ["Release 3.10", "Release 3.1"],
    ["1.20.3", "1.2.3", "1.20.30"],
    ["10.0.0.1", "10.0.1.0"],
    ["10²", "102", "10"],
    ["3½", "31/2", "3"],
    ["H2O", "H2O2"],
    ["1" * 31 + "2", "1" * 31 + "3", "1" * 32 + "2"],
    ["ข้าว", "ขาว"],
    ["はか", "ばか"],
]


@pytest.mark.parametrize("row", ALIKE)
def test_answer_words_of_equal_answers_are_equal(row):
    assert {tuple(answer_words(text)) for text in row} == {tuple(answer_words(row[0]))}
    assert answer_words(row[0])


@pytest.mark.parametrize("row", UNLIKE)
def test_answer_words_of_different_answers_differ(row):
    assert len({tuple(answer_words(text)) for text in row}) == len(row)


@pytest.mark.parametrize("row", ALIKE + UNLIKE)
def test_normalisation_is_idempotent(row):
    for text in row:
        assert normalize_characters(normalize_characters(text)) == normalize_characters(text)
        assert canonical(canonical(text)) == canonical(text)


def test_answer_words_tell_letter_a_from_article():
    for text in ("A", "(A)", "The answer is A.", "Vitamin A is good", "plan a."):
        assert "lettera" in answer_words(text)
    for text in ("A cat", "a cat", "Once upon a time", "plan a trip", "THIS IS A TEST", "A. Paris"):
        assert "lettera" not in answer_words(text)
    assert answer_words("the a an") == []


def test_spell_symbols_keeps_zeros_of_labels():
    assert spell_symbols("Release 3.10") == "Release v3.10"
    assert (
        spell_symbols("The Tower is 3.50 m high, about 3.50.")
        == "The Tower is 3.50 m high, about 3.50."
    )
    assert spell_symbols("3.50", is_verbatim=True) == "v3.50"
    assert spell_symbols("3.50 m", is_verbatim=True) == "3.50 m"


def test_words_are_characters_in_scripts_without_spaces():
    assert words("It's 灯台 é") == ["it", "s", "灯", "台", "é"]
    assert answer_words("エッフェル塔は") == ["エッフェル", "塔", "は"]
    assert fold_accents("Élan, ΆΛΦΑ") == "elan, αλφα" and fold_accents("ガ") == "ガ"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("How old is Ann's 93?", {"old", "ann", "93"}),
        ("Wie alt ist die Mühle?", {"alt", "muhle"}),
        ("Кто построил башню?", {"построил", "башн"}),
        ("这座塔有多高？", {"座", "塔", "高"}),
        ("灯台は誰がペンで建てた？", {"灯", "台", "建", "ペン"}),
        ("Who was it?", set()),
        ("これは？", set()),
    ],
)
def test_content_words(text, want):
    assert content_words(text) == want


def test_canonical_of_text_without_words():
    assert canonical(" + ") == "+" and canonical("") == "" and canonical("The Mill!") == "mill"
