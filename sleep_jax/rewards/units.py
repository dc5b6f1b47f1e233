"""Units of measure behind numbers, one spelling for each: "8 km" and "eight kilometers" agree."""

import re

from sleep_jax.rewards.numerals import normalize_numbers

_SPELLINGS = {
    "millimetre": "mm millimetres? millimeters?",
    "centimetre": "cm centimetres? centimeters?",
    "metre": "m metres? meters?",
    "kilometre": "km kilometres? kilometers?",
    "inch": "inch inches",
    "foot": "ft foot feet",
    "yard": "yards?",
    "mile": "miles?",
    "milligram": "mg milligrams?",
    "gram": "g grams?",
    "kilogram": "kg kilograms? kilos?",
    "tonne": "tonnes?",
    "pound": "lbs? pounds?",
    "millilitre": "ml millilitres? milliliters?",
    "litre": "l litres? liters?",
    "gallon": "gallons?",
    "second": "sec seconds?",
    "minute": "mins? minutes?",
    "hour": "h hrs? hours?",
    "day": "days?",
    "week": "weeks?",
    "month": "months?",
    "year": "years?",
    "hertz": "hz hertz",
    "kilohertz": "khz kilohertz",
    "celsius": r"°\s?c degrees?\s+celsius",
    "fahrenheit": r"°\s?f degrees?\s+fahrenheit",
    "degree": "degrees?",
    "percent": r"% percent per\s+cent",
}
_UNIT = re.compile(
    r"(?P<number>(?<![\w.])\d+(?:\.\d+)?)[\s-]*(?:"
    + "|".join(
        rf"(?P<{name}>{'|'.join(spellings.split(' '))})" for name, spellings in _SPELLINGS.items()
    )
    + r")(?!\w)",
    re.IGNORECASE,
)


def normalize_quantities(text: str) -> str:
    """Numbers in digits and the units behind them by name: "8 km long" -> "8 kilometre long"."""
    return _UNIT.sub(lambda match: f"{match['number']} {match.lastgroup}", normalize_numbers(text))


def units(text: str) -> dict[str, set[str]]:
    """The units that each number of a text has: "8 km, 8 h, 9 cats" -> {"8": {kilometre, hour}}."""
    found: dict[str, set[str]] = {}
    for match in _UNIT.finditer(normalize_numbers(text)):
        found.setdefault(match["number"], set()).add(match.lastgroup)
    return found
