"""Splits text into units: sentences, headings, list items, table rows and lines "key: value".

Sentences are found by the library `sentencex`. A line that was not wrapped but ended on purpose is
a unit, too. Markup (bullets, #, >, fences, rules) is dropped; numbers of list items are kept.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator

import sentencex

from sleep_jax.data.languages import UNSPACED, language
from sleep_jax.fields import writable

MIN_WRAP_COLUMNS = 40  # text is not expected to be wrapped at fewer columns

_QUOTED = re.compile(r"\A[ \t]*>[ \t>]*")
_FENCE = re.compile(r"[ \t]*(?:```|~~~)")
_MARK = re.compile(r"\A[ \t]*(?:(?:#{1,6}|[-*+–](?:[ \t]+\[[ xX]\])?)[ \t]+|[•‣◦⁃▪●○■□◆・·][ \t]*)")
_NUMBER = re.compile(
    r"\A(?:[ \t]*(?:\d{1,3}[.)]|\((?:\d{1,3}|[a-zA-Z])\)|[a-zA-Z]\))[ \t]+"
    r"|[①-⑳][ \t]*|[一二三四五六七八九十]{1,3}、|（[一二三四五六七八九十\d]{1,3}）)"
)
_ROW = re.compile(r"[ \t]*\|.*|[^|\n]+\|[^|\n]*\|.*|[^\t\n]*\S\t+\S.*[^.!?。！？\s]")
_KEY = re.compile(r"\A[ \t]*[*_]{0,2}[^\Wa-z_][^\n:：.!?。！？]{0,40}(?::[*_]{0,2}(?:[ \t]|$)|：)")
_ENDED = re.compile(r"[.!?…。！？؟।:：;；][\"'”’»)\]」』）]*[ \t]*$")
_AFTER_BRACKET = re.compile(r"(?<=[^\WA-Z_][.!?]\)\s)(?=[\"'(“„«]?[^\Wa-z_])")
_ORDINAL = re.compile(r"\b(?:[ia]m|d(?:er|en|es|em|ie|as)|vom|beim|zum|jede[nrs])\s+\d\d?\.\s+$")


def sentences(text: str) -> list[str]:
    """The units of a text in order, stripped and otherwise unchanged, without those that have no
    letter or digit.
    """
    name = language(text)
    units = (unit for block in _blocks(text) for unit in _units(block, name))
    return [unit for unit in units if any(map(str.isalnum, unit))]


def sentence_ends(text: str) -> list[int]:
    """The end offsets of the sentences and lines of a text, trailing white space included:
    increasing, the last one is the text's length.
    """
    name = language(text)
    parts = (part for line in text.splitlines(keepends=True) for part in _split(line, name))
    return list(itertools.accumulate(map(len, parts)))


def word_ends(text: str) -> list[int]:
    """The end offsets of the words of a text; in scripts without spaces, each character is a
    word.
    """
    return [match.end() for match in re.finditer(rf"[{UNSPACED}]|[^\s{UNSPACED}]+", text)]


def _units(block: str, name: str) -> Iterator[str]:
    if _ROW.fullmatch(block):
        yield block.strip(" \t|")
        return
    number = _NUMBER.match(block)
    start = number.end() if number else 0  # the dot of an item's number is no sentence end
    first, *rest = _split(block[start:], name) or [""]
    yield (block[:start] + first).strip()
    yield from (sentence.strip() for sentence in rest)


def _split(text: str, name: str) -> list[str]:
    """Sentences with their trailing white space; they join to the text."""
    parts: list[str] = []
    # As one line, so that an abbreviation at a line end is recognised. The library is written in
    # Rust, whose strings have no lone surrogates.
    line = writable(re.sub(r"\s", " ", text))
    for sentence in _cut(text, map(len, sentencex.segment(name, line))):
        if parts and not _is_end(parts[-1], sentence, name):
            parts[-1] += sentence
        else:
            parts.append(sentence)
    # The library finds no sentence end inside brackets.
    return [part for sentence in parts for part in _AFTER_BRACKET.split(sentence)]


def _cut(text: str, lengths: Iterable[int]) -> Iterator[str]:
    for a, b in itertools.pairwise(itertools.accumulate(lengths, initial=0)):
        yield text[a:b]


def _is_end(sentence: str, following: str, name: str) -> bool:
    """Whether a sentence end found by the library is one: not in "im 3. Stock", 「…。」と."""
    if name == "de" and _ORDINAL.search(sentence):
        return False
    if name == "ja" and sentence[-1] in "」』" and "\u3041" <= following[0] <= "\u309f":
        return False
    return bool(sentence.strip())


def _blocks(text: str) -> Iterator[str]:
    """Runs of lines that belong together, without their markup."""
    lines = [_QUOTED.sub("", line, count=1) for line in text.splitlines()]
    for is_blank, group in itertools.groupby(lines, key=lambda line: not line.strip()):
        if is_blank:
            continue
        paragraph = [line for line in group if not _FENCE.match(line)]
        width = max([MIN_WRAP_COLUMNS, *map(_columns, paragraph)])
        block: list[str] = []
        for line in paragraph:
            if block and _begins_block(block[-1], line, width):
                yield _MARK.sub("", "\n".join(block), count=1)
                block = []
            block.append(line)
        yield _MARK.sub("", "\n".join(block), count=1)


def _begins_block(before: str, line: str, width: int) -> bool:
    """Whether a line begins a block: it is an item, a row or a key, or the line before it was ended
    on purpose, since the first word would still have fitted on it.
    """
    if _MARK.match(line) or _ROW.fullmatch(line) or _ROW.fullmatch(before):
        return True
    if _KEY.match(line) and _KEY.match(before):
        return True
    if _NUMBER.match(line) and any(p.search(before) for p in (_ENDED, _KEY, _NUMBER)):
        return True
    if before.startswith("#") or not any(map(str.isalnum, before)):
        return True
    is_inside = _columns(before) >= MIN_WRAP_COLUMNS // 2 or before.rstrip().endswith(",")
    if line[0].isspace() or (line[0].islower() and is_inside):
        return False
    first = line[: word_ends(line)[0]]
    return _columns(before.rstrip()) + 1 + _columns(first) <= width


def _columns(text: str) -> int:
    """The width of a text in a fixed-width font."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)
