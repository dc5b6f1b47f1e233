"""One spelling for every number in a text, so that "seven", "7" and "7.0" compare equal.

English cardinals up to trillions, ordinals up to ninety-ninth, thousands separators, decimals of
any length; Chinese numerals of two or more characters, or before a unit of time, length or money.
Numbers with two dots or more, such as 1.20.3, are addresses, dates or versions and are kept.
"""

import decimal
import re
from decimal import Decimal

# fmt: off
_UNITS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = [
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
    "eighteen", "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_UNIT_ORDINALS = [
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth",
]
_TEEN_ORDINALS = [
    "tenth", "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth",
    "seventeenth", "eighteenth", "nineteenth",
]
_TENS_ORDINALS = [word[:-1] + "ieth" for word in _TENS]
# fmt: on
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_VALUES = {
    "zero": 0,
    **{word: i for i, word in enumerate(_UNITS + _TEENS, start=1)},
    **{word: i for i, word in enumerate(_UNIT_ORDINALS + _TEEN_ORDINALS, start=1)},
    **{word: 10 * i for i, word in enumerate(_TENS, start=2)},
    **{word: 10 * i for i, word in enumerate(_TENS_ORDINALS, start=2)},
}


def _any(words) -> str:
    return "(?:" + "|".join(words) + ")"


_DIGITS = r"(?:(?<!\w)[-−])?(?<![\w.])(?:\d{1,3}(?:,\d{3})++(?!\d)|\d++)(?:\.\d++)?(?!\.\d)"
_SMALL = rf"(?:{_any(_TENS)}(?:[ -]{_any(_UNITS)})?|{_any(_TEENS)}|{_any(_UNITS)}|zero)"
_HUNDREDS = rf"(?:(?:(?:{_SMALL}|a)(?:\s+|-))?hundred(?:\s+(?:and\s+)?{_SMALL})?|{_SMALL})"
_SCALED = rf"(?:(?:{_DIGITS}|{_HUNDREDS}|a)\s+{_any(_SCALES)})"
_CARDINAL = (
    rf"{_SCALED}(?:,?\s+(?:and\s+)?{_SCALED})*(?:\s+(?:and\s+)?{_HUNDREDS})?|{_HUNDREDS}|{_DIGITS}"
)
_ORDINAL = (
    rf"(?:{_any(_TENS)}[ -])?{_any(_UNIT_ORDINALS)}|{_any(_TEEN_ORDINALS)}"
    rf"|{_any(_TENS_ORDINALS)}"
)
# Word boundaries on both sides; `_DIGITS` has its own, since a number may begin with a sign.
_NUMBER = re.compile(
    rf"(?P<ordinal>\b(?:{_ORDINAL})\b)|(?P<cardinal>(?:\b|(?=[-−])){_any([_CARDINAL])}(?:\b|(?<=\d)))",
    re.IGNORECASE,
)


def _value(phrase: str) -> Decimal:
    """The value of one matched phrase: "two hundred and five thousand" is 205000."""
    total, current = Decimal(0), Decimal(0)
    for token in re.findall(r"[a-z]+|-?\d[\d,]*(?:\.\d+)?", phrase.lower().replace("−", "-")):
        if token in _SCALES:
            total, current = total + (current or 1) * _SCALES[token], Decimal(0)
        elif token == "hundred":
            current = (current or Decimal(1)) * 100
        elif token in _VALUES:
            current += _VALUES[token]
        elif token not in ("a", "and"):
            current += Decimal(token.replace(",", ""))
    return total + current


def _spell(match: re.Match) -> str:
    with decimal.localcontext(prec=len(match[0]) + 20):  # exact: a scale adds 12 digits at most
        value = _value(match[0])
    if match["ordinal"]:
        n = int(value)
        suffix = "th" if 10 < n % 100 < 20 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
        return f"{n}{suffix}"
    digits = format(value, "f")
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    return "0" if digits == "-0" else digits


_HAN_DIGITS = {**{c: i for i, c in enumerate("零一二三四五六七八九")}, "〇": 0, "两": 2, "兩": 2}
_HAN_SCALES = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_HAN_NUMBER = re.compile(
    "[〇零一二三四五六七八九两兩十百][〇零一二三四五六七八九两兩十百千万萬亿億]+"
    "|[一二三四五六七八九两兩十](?=[年月日时時秒米元円岁歳])"
)


def _han_value(match: re.Match) -> str:
    """A Chinese numeral in digits: 五十三 is 53, and without scales 一八七一 is 1871."""
    if _HAN_SCALES.keys().isdisjoint(match[0]):
        return "".join(str(_HAN_DIGITS[c]) for c in match[0])
    total, section, digit = 0, 0, 0
    for c in match[0]:
        scale = _HAN_SCALES.get(c, 1)
        if scale == 1:
            digit = _HAN_DIGITS[c]
        elif scale < 10**4:
            section, digit = section + (digit or 1) * scale, 0
        else:
            total = total + (section + digit) * scale if section + digit else total * scale
            section, digit = 0, 0
    return str(total + section + digit)


def normalize_numbers(text: str) -> str:
    """Rewrites every number in digits: "Twenty-one of 1,250 (third)" -> "21 of 1250 (3rd)".

    Digits inside a word ("H2O") are kept.
    """
    return _NUMBER.sub(_spell, _HAN_NUMBER.sub(_han_value, text))


def numbers(text: str) -> list[str]:
    """The numbers of a text in order, as plain digits; "3rd" gives "3" and "H2O" gives "2"."""
    return re.findall(r"(?:(?<!\w)-)?\d+(?:\.\d+)?", normalize_numbers(text))
