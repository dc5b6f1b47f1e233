"""One spelling for units and currencies of numbers: "8 km" equals "eight kilometers", "$5" equals
"5 dollars", and "$5" differs from "€5".
"""

import re

from sleep_jax.data.numerals import normalize_numbers

# Name: patterns of its spellings. A longer one comes before its prefix: km/h before km, °C before
# °.
_SPELLINGS = {
    "kilometre_an_hour": r"km/h km\s?h-1 kmh kph kilomet(?:re|er)s?\s+(?:per|an)\s+hour",
    "mile_an_hour": r"mph miles?\s+(?:per|an)\s+hour",
    "metre_a_sec": r"m/s met(?:re|er)s?\s+(?:per|a)\s+second",
    "square_kilometre": r"km\^2 km2 sq\.?\s?km square\s+kilomet(?:re|er)s?",
    "square_metre": r"m\^2 m2 sq\.?\s?m square\s+met(?:re|er)s?",
    "cubic_metre": r"m\^3 m3 cubic\s+met(?:re|er)s?",
    "millimetre": "mm millimetres? millimeters?",
    "centimetre": "cm centimetres? centimeters?",
    "metre": "m metres? meters?",
    "kilometre": "km kilometres? kilometers?",
    "inch": "inch inches",
    "foot": "ft foot feet",
    "yard": "yards?",
    "mile": "miles?",
    "microgram": "μg mcg micrograms?",
    "milligram": "mg milligrams?",
    "gram": "g grams?",
    "kilogram": "kg kilograms? kilos?",
    "tonne": "tonnes?",
    "pound": "lbs? pounds? £ gbp",
    "millilitre": "ml millilitres? milliliters?",
    "litre": "l litres? liters?",
    "gallon": "gallons?",
    "seconds": "sec seconds?",  # plural: "2 second" would be read as an ordinal
    "minute": "mins? minutes?",
    "hour": "h hrs? hours?",
    "day": "days?",
    "week": "weeks?",
    "month": "months?",
    "year": "years?",
    "hertz": "hz hertz",
    "kilohertz": "khz kilohertz",
    "megabyte": "mb megabytes?",
    "gigabyte": "gb gigabytes?",
    "degree_celsius": r"°\s?c degrees?\s+c(?:elsius)?",
    "degree_fahrenheit": r"°\s?f degrees?\s+f(?:ahrenheit)?",
    "degree": "° degrees?",
    "percent": r"% percent per\s+cent",
    "permille": r"‰ per\s+mille",
    "australian_dollar": r"a\$ aud",
    "canadian_dollar": r"c\$ cad",
    "dollar": r"us\$ \$ usd dollars?",
    "euro": "€ eur euros?",
    "yen": "¥ jpy yen",
    "rupee": "₹ inr rupees?",
    "rouble": "₽ rub rou?bles?",
    "won": "₩ krw",
    "franc": "chf francs?",
    "cent": "¢ cents?",
}
_UNIT = re.compile(
    r"(?P<number>(?<![\w.])\d+(?:\.\d+)?)[\s-]*(?:"
    + "|".join(
        rf"(?P<{name}>{'|'.join(spellings.split(' '))})" for name, spellings in _SPELLINGS.items()
    )
    + r")(?!\w)",
    re.IGNORECASE,
)
_CURRENCY = re.compile(
    r"(?P<sign>(?<!\w)[-−])?(?P<currency>\b(?:US|A|C)\$|\b(?:USD|EUR|GBP|JPY|CHF)\s|[$€£¥₹₽₩])"
    r"\s?(?P<amount>[-−]?\d+(?:,\d{3})*(?:\.\d+)?(?:\s+(?:thousand|million|billion|trillion)\b)?)"
)


def _amount_first(match: re.Match) -> str:
    return f"{match['sign'] or ''}{match['amount']} {match['currency'].strip()}"


def _with_digits(text: str) -> str:
    """Numbers in digits, currencies after them."""
    return normalize_numbers(_CURRENCY.sub(_amount_first, text))


def _name(match: re.Match) -> str:
    return match.lastgroup.replace("_", " ")


def normalize_quantities(text: str) -> str:
    """Numbers in digits and the units after them by name: "8 km long" -> "8 kilometre long"."""
    return _UNIT.sub(lambda match: f"{match['number']} {_name(match)}", _with_digits(text))


def is_measured(text: str, start: int) -> bool:
    """Whether a unit follows the number in digits at offset `start` of a text."""
    return bool(_UNIT.match(text, start))


def units(text: str) -> dict[str, set[str]]:
    """The units of each number of a text: "8 km, 8 h, 9 cats" -> {"8": {kilometre, hour}}."""
    units_of: dict[str, set[str]] = {}
    for match in _UNIT.finditer(_with_digits(text)):
        units_of.setdefault(match["number"], set()).add(_name(match))
    return units_of
