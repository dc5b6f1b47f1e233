"""Spellings of one number are normalised to one text, different numbers to different ones."""

import pytest

from sleep_jax.data.numerals import normalize_numbers, numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Twenty-one of 1,250 (third)", "21 of 1250 (3rd)"),
        ("zero, one, nineteen, twenty", "0, 1, 19, 20"),
        ("one two three", "1 2 3"),
        ("five and six", "5 and 6"),
        ("two hundred and five thousand people", "205000 people"),
        ("two million, three hundred thousand and five", "2300005"),
        ("1.5 million = 1,500,000", "1500000 = 1500000"),
        ("a hundred and one, a two-hundred-year bridge", "101, a 200-year bridge"),
        ("3.50 and 007 and 7.0", "3.5 and 7 and 7"),
        ("-5 to −3.0, but 10-20 and ten-twenty", "-5 to -3, but 10-20 and 10-20"),
        ("the twenty-first, the 21st, the twelfth", "the 21st, the 21st, the 12th"),
        ("It fell in 1931. Then nothing.", "It fell in 1931. Then nothing."),
        ("1,250km", "1250km"),
        ("-5 million, minus nothing", "-5000000, minus nothing"),
        ("10.0.0.1, 1.20.3 and 3.10.2020", "10.0.0.1, 1.20.3 and 3.10.2020"),
        ("1" * 40 + ".50", "1" * 40 + ".5"),
        ("9" * 40 + " million", "9" * 40 + "000000"),
        ("五十三米，一八七一年，一亿二千万，十分", "53米，1871年，120000000，十分"),
        ("someone often tends a stone at H2O", "someone often tends a stone at H2O"),
    ],
)
def test_normalize_numbers(text, expected):
    assert normalize_numbers(text) == expected
    assert normalize_numbers(expected) == expected  # nothing left to rewrite


def test_normalize_numbers_of_cardinals_in_words():
    units = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for tens, word in zip((20, 40, 90), ("twenty", "forty", "ninety")):
        for i, unit in enumerate(units, start=1):
            assert normalize_numbers(f"{word}-{unit}") == str(tens + i)
            assert normalize_numbers(f"{word} {unit}") == str(tens + i)


def test_numbers_lists_values_in_order():
    assert numbers("Of 1,234 bridges seven fell in 1931, the 3rd by 2.50 m at 7:30.") == [
        "1234", "7", "1931", "3", "2.5", "7", "30",
    ]  # fmt: skip
    assert numbers("no number here") == []
