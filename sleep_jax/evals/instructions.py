"""Checks of what an instruction asks of a reply: its length, form, words, beginning and end.

A check is a text: its kind, then its argument, as in `at_most_words 20`, `contains river` or
`no_comma`. What is checked is the reply without white space around it; an empty reply passes none.
"""

import json
import re
from collections.abc import Callable

Check = Callable[[str, str], bool]
_BULLET = re.compile(r"^\s*[-*\u2022]\s+\S")
_NUMBERED = re.compile(r"^\s*(\d+)[.)]\s+\S")


def words(text: str) -> list[str]:
    """The words of a text: letters, digits, and hyphens and apostrophes inside."""
    return re.findall(r"[^\W_]+(?:[-'\u2019][^\W_]+)*", text)


def sentences(text: str) -> int:
    """The number of sentences: ends of `.`, `!` or `?` before white space or the end, and a last
    one that does not end."""
    parts = re.split(r"(?<=[.!?])[\"'\u201d\u2019)]*\s+", text.strip())
    return sum(bool(words(part)) for part in parts)


def lines(text: str) -> list[str]:
    """The lines that are not blank."""
    return [line for line in text.splitlines() if line.strip()]


def paragraphs(text: str) -> int:
    """The number of parts between blank lines."""
    return sum(bool(part.strip()) for part in re.split(r"\n\s*\n", text))


def _count(text: str, phrase: str) -> int:
    """How often a phrase occurs as whole words, in any case."""
    return len(re.findall(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE))


def _json(text: str, kind: type) -> object | None:
    """The JSON value of a kind that a text is, or that its only code block holds."""
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*?)\n?\s*```", text, re.DOTALL)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except ValueError:
        return None
    return value if isinstance(value, kind) else None


def _names(argument: str) -> list[str]:
    return [name.strip() for name in argument.split(",")]


def _has_keys(text: str, argument: str) -> bool:
    value = _json(text, dict)
    return value is not None and {*value} == {*_names(argument)}


def _has_list(text: str, argument: str) -> bool:
    value = _json(text, list)
    return value is not None and len(value) == int(argument)


def _has_times(text: str, argument: str) -> bool:
    count, _, phrase = argument.partition(" ")
    return _count(text, phrase) >= int(count)


def _is_one_of(text: str, argument: str) -> bool:
    return text.rstrip(".!").casefold() in [choice.casefold() for choice in argument.split("|")]


def _has_numbers(text: str, argument: str) -> bool:
    numbers = [int(found[1]) for line in lines(text) if (found := _NUMBERED.match(line))]
    return numbers == [*range(1, int(argument) + 1)]


def _is_in_order(text: str, argument: str) -> bool:
    items = [item.strip().rstrip(".").casefold() for item in re.split(r"[,\n]", text)]
    return len(items) == int(argument) and items == sorted(items) and all(items)


def _has_no_letter(text: str, argument: str) -> bool:
    return argument.casefold() not in text.casefold()


# (whether a reply passes, whether the check takes an argument).
CHECKS: dict[str, tuple[Check, bool]] = {
    "at_most_words": (lambda text, n: len(words(text)) <= int(n), True),
    "at_least_words": (lambda text, n: len(words(text)) >= int(n), True),
    "exactly_words": (lambda text, n: len(words(text)) == int(n), True),
    "exactly_sentences": (lambda text, n: sentences(text) == int(n), True),
    "exactly_lines": (lambda text, n: len(lines(text)) == int(n), True),
    "exactly_paragraphs": (lambda text, n: paragraphs(text) == int(n), True),
    "exactly_bullets": (
        lambda text, n: sum(bool(_BULLET.match(x)) for x in lines(text)) == int(n),
        True,
    ),
    "numbered": (_has_numbers, True),
    "comma_separated": (lambda text, n: len(text.split(",")) == int(n), True),
    "in_alphabetical_order": (_is_in_order, True),
    "upper_case": (lambda text, _: text.upper() == text != text.lower(), False),
    "lower_case": (lambda text, _: text.lower() == text != text.upper(), False),
    "contains": (lambda text, phrase: _count(text, phrase) > 0, True),
    "contains_times": (_has_times, True),
    "omits": (lambda text, phrase: _count(text, phrase) == 0, True),
    "omits_letter": (_has_no_letter, True),
    "no_comma": (lambda text, _: "," not in text, False),
    "no_digit": (lambda text, _: not re.search(r"\d", text), False),
    "starts_with": (lambda text, start: text.startswith(start), True),
    "ends_with": (lambda text, end: text.endswith(end), True),
    "in_quotes": (lambda text, _: len(text) > 2 and text[0] == text[-1] == '"', False),
    "number_only": (lambda text, _: bool(re.fullmatch(r"-?\d+(\.\d+)?", text)), False),
    "one_of": (_is_one_of, True),
    "json_object": (_has_keys, True),
    "json_list": (_has_list, True),
}


def passes(reply: str, check: str) -> bool:
    """Whether a reply passes a check.

    Args:
      reply: of a model.
      check: kind and argument.

    Raises:
      ValueError: there is no such kind, or its argument is missing or too much.
    """
    kind, _, argument = check.partition(" ")
    if kind not in CHECKS:
        raise ValueError(f"{check!r}: no such check; there is {', '.join(CHECKS)}")
    is_passed, takes_argument = CHECKS[kind]
    if bool(argument) != takes_argument:
        raise ValueError(f"{check!r}: {kind} takes {'an' if takes_argument else 'no'} argument")
    text = reply.strip()
    return bool(text) and is_passed(text, argument)
