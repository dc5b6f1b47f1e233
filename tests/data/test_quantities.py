"""Spellings of one unit are normalised to one text, different units to different ones."""

import pytest

from sleep_jax.data.quantities import normalize_quantities, units


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is 8 km, eight kilometers or 8-kilometre long.",
         "It is 8 kilometre, 8 kilometre or 8 kilometre long."),
        ("60 °C, 60°C, sixty degrees Celsius",
         "60 degree celsius, 60 degree celsius, 60 degree celsius"),
        ("12 % and twelve per cent", "12 percent and 12 percent"),
        ("2.5kg, 3 m, 4 mm, 5 min", "2.5 kilogram, 3 metre, 4 millimetre, 5 minute"),
        ("seven arches and some metres", "7 arches and some metres"),
        ("3 million years", "3000000 year"),
        ("41 seconds, 1 sec, the second", "41 seconds, 1 seconds, the 2nd"),
        ("$5, -$5 million, US$ 1,250.50, €5, 5 euros, £3",
         "5 dollar, -5000000 dollar, 1250.5 dollar, 5 euro, 5 euro, 3 pound"),
        ("60 km/h, 5 m^2, 5 sq m and 5 m/s",
         "60 kilometre an hour, 5 square metre, 5 square metre and 5 metre a sec"),
        ("8 minutely drawn maps, 4 marks", "8 minutely drawn maps, 4 marks"),
    ],
)  # fmt: skip
def test_normalize_quantities(text, expected):
    assert normalize_quantities(text) == expected
    assert normalize_quantities(expected) == expected


def test_units_by_number():
    assert units("8 km in 8 hours, 9 cats and 2.50 l") == {
        "8": {"kilometre", "hour"},
        "2.5": {"litre"},
    }
