"""Rules of agreement: what two texts may not differ in if they are to say the same.

They read surface forms, of English first. A changed common noun is seen only where the texts have
the same frame; in other words it passes. In German a noun behind an article names nothing; where a
script has no capitals every content word may be a name. Numbers in words are English.
"""

import difflib
import functools
import re
from typing import NamedTuple

from sleep_jax.data.answers import content_words, fold_accents, spell_symbols
from sleep_jax.data.languages import (
    CASED,
    DETERMINERS,
    FREE_ORDER,
    NEGATIONS,
    UNSPACED,
    language,
    stem,
    stop_words,
)
from sleep_jax.data.numerals import numbers
from sleep_jax.data.quantities import normalize_quantities, units

# Capitalised in titles, labels and greetings without naming anything.
_COMMON_WORDS = """
a about after all also although an and another any approximately are around as at be because been
before being both but by can could did do does during each either even every few finally for from
had has have he her here hers him his how however i i'd i'll i'm i've if in instead into is it its
just later like many may me might more most mr mrs ms dr prof much must my neither next no nor not
now of off ok okay on once only or other our out over per please question answer passage context
roughly summary several shall she should since so some still such sure than that the their them
then there therefore these they they're this those though thus to too under until up upon us very
was we were what when where whether which while who whoever whom whose why will with within
without would yes yet you your
"""
_COMMON = frozenset(_COMMON_WORDS.split())
# Words that may be exchanged without changing a fact.
_EMPTY_WORDS = """
1 and as at be been by did do does for from had has have he her his if in is it its of on or our she
that their there these they this those to was we were which who with you your
"""
_EMPTY = frozenset(_EMPTY_WORDS.split())
_HIRAGANA = frozenset(map(chr, range(0x3041, 0x30A0)))  # particles and endings
# Both sides of them are alike.
_EVEN_WORDS = "is are was were and or it ist sind war waren und oder это и или 是 和 は"
_EVEN = frozenset(_EVEN_WORDS.split())
_SILENT = frozenset(("a", "an", "the", "mr", "mrs", "ms", "dr", "doctor", "prof", "professor"))
_SENTENCE = 3  # words, from which on a text is more than a short answer
_SENTENCE_END = re.compile(r"(?<!\b[A-Z])(?<!\b[DMS][rst])(?<!\bMrs)\.(?!\d)|[!?;:\n\"“”(。।]")
_LIST_MARKER = re.compile(r"^\s*(?:\d{1,2}[.)]|[-*•])\s+(?=\S)", re.MULTILINE)
_TOKEN = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+(?:['’][^\W\d_]+)*|[^\w\s]|\n")
# Their parts mean something in their order: times, dates, ratios, addresses.
_CODE = re.compile(r"(?<![\w.])\d+(?:[:/]\d+|\.\d+\.\d+|-\d+-\d+)(?:[:/.-]\d+)*(?!\w)")


class _Name(NamedTuple):
    """A run of capitalised words: `certain` ones, and one that may only open its sentence."""

    certain: tuple[str, ...]
    opening: tuple[str, ...]


def _fold(word: str) -> str:
    """Lower case, no accents, no possessive: "Zürich's" -> "zurich"."""
    return fold_accents(word).removesuffix("'s")


def _words(text: str) -> set[str]:
    return {_fold(word) for word in _TOKEN.findall(normalize_quantities(text))}


def _without_markers(text: str) -> str:
    """List numbering and bullets become sentence ends: they are no facts."""
    return _LIST_MARKER.sub(". ", text)


def _names(text: str, lang: str) -> list[_Name]:
    """Runs of capitalised words of a text in a language, in order. A word that opens a sentence is
    not a certain name."""
    text = normalize_quantities(_without_markers(text))
    ends = {match.start() for match in _SENTENCE_END.finditer(text)}
    tokens = [*_TOKEN.finditer(text)]
    common = _COMMON if lang == "en" else _COMMON | stop_words(lang)
    nouns = _nouns([token[0] for token in tokens]) if lang == "de" else ()
    names, certain, opening = [], [], []
    is_opening, before = True, ""
    for i, match in enumerate([*tokens, None]):
        token = match[0] if match else ""
        is_end = match is None or match.start() in ends
        is_month = token == "May" and before.isdigit()
        is_common = (_fold(token) in common and not is_month) or i in nouns
        before = token
        if token[:1].isupper() and not is_common:
            (opening if is_opening else certain).append(_fold(token))
        elif (certain or opening) and (is_end or token not in "-."):  # "Anglo-Saxon", "J. Smith"
            names.append(_Name(tuple(certain), tuple(opening)))
            certain, opening = [], []
        if is_end or token not in "'‘*#":  # marks that may stand before a first word
            is_opening = is_end
    return names


def _nouns(tokens: list[str]) -> set[int]:
    """Where a German text has nouns that name nothing: behind an article or a small number, with
    adjectives between, "der große alte Turm"."""
    nouns, is_near = set(), False
    for i, token in enumerate(tokens):
        if is_near and token[:1].isupper():
            nouns.add(i)
        is_adjective = is_near and re.fullmatch(r"[^\W\d_A-ZÄÖÜ][^\W\d_]*e[mnrs]?", token)
        is_number = token.isdigit() and len(token) < 4
        is_near = token.casefold() in DETERMINERS or is_number or bool(is_adjective)
    return nouns


def _required_numbers(text: str) -> tuple[list[str], set[str]]:
    """The numbers that must be matched, and all: "one", "first", "second" often count nothing."""
    text = _without_markers(text)
    found = numbers(normalize_quantities(text))
    vague = set()
    for words, value in ((r"one|first", "1"), (r"second", "2")):
        if re.search(rf"\b(?:{words})\b", text, re.IGNORECASE):
            vague.add(value)
    vague -= set(re.findall(r"\d+", text))
    return [number for number in found if number not in vague], set(found)


def _numbers_agree(candidate: str, reference: str) -> bool:
    (required, found), (other, other_found) = map(_required_numbers, (candidate, reference))
    return other_found.issuperset(required) and found.issuperset(other)


def _negated_sentences(text: str, lang: str) -> int:
    negations = {NEGATIONS["en"], NEGATIONS.get(lang, NEGATIONS["en"])}
    parts = _SENTENCE_END.split(text)
    return sum(any(negation.search(part) for negation in negations) for part in parts)


def _names_agree(candidate: str, reference: str, lang: str) -> bool:
    """No name was exchanged; one side may shorten a name ("Ada Lovelace", "Lovelace")."""
    missing = []  # per side: words of its names that the other side lacks
    for text, other in ((candidate, reference), (reference, candidate)):
        known, unknown = _words(other), set()
        # "Paris", "Ada Lovelace": no sentence, so the first word is a name like the others.
        is_fragment = not any(token[0].islower() for token in _TOKEN.findall(text))
        for name in _names(text, lang):
            words = name.opening + name.certain
            if known.isdisjoint(words) and (name.certain or is_fragment):
                return False
            unknown |= set(words) - known
        missing.append(unknown)
    if lang not in CASED:
        ours, theirs = (
            content_words(normalize_quantities(text)) for text in (candidate, reference)
        )
        missing = [ours - theirs, theirs - ours]
    return not (missing[0] and missing[1])


def _units_agree(candidate: str, reference: str) -> bool:
    """No number that both texts measure something with has other units in each, and both or none
    count in per cent."""
    ours, theirs = units(candidate), units(reference)
    in_percent = [any("percent" in names for names in found.values()) for found in (ours, theirs)]
    shared = ours.keys() & theirs.keys()
    return in_percent[0] == in_percent[1] and all(ours[n] & theirs[n] for n in shared)


def _codes_agree(candidate: str, reference: str) -> bool:
    """Not both texts have a time, date, ratio or address that the other lacks."""
    ours, theirs = (set(_CODE.findall(text)) for text in (candidate, reference))
    return not (ours - theirs and theirs - ours)


def _frame_words(text: str) -> list[str]:
    """The words of a text, singular and plural alike, without articles and titles."""
    words = map(_fold, _TOKEN.findall(normalize_quantities(_without_markers(text))))
    words = [word for word in words if word[:1].isalnum() and word not in _SILENT]
    return [w if w in _EMPTY or len(w) <= 3 else w.removesuffix("s") for w in words]


def _is_swapped(a: list[str], b: list[str]) -> bool:
    """The same words, changed places around one that stayed: "fox bit dog", "dog bit fox".

    Around "is" or "and" nothing changes: "Oslen is the capital", "The capital is Oslen".
    """
    moved = [i for i, (x, y) in enumerate(zip(a, b)) if x != y]
    if not moved:
        return False
    stayed = set(range(moved[0], moved[-1])) - set(moved)
    return any(a[i] not in _EVEN for i in stayed)


def _is_refilled(candidate: str, reference: str, lang: str) -> bool:
    """The texts are one frame with other content words in it, or one goes on where the other ends.

    "The gate is of oak", "The gate is of iron". At least half of the longer text must be common to
    both, in order, and nothing but replaced words tell them apart: who puts a thing in other words
    hardly ever keeps the rest as it was.
    """
    empty = _EMPTY if lang == "en" else _EMPTY | stop_words(lang) | _HIRAGANA
    a, b = _frame_words(candidate), _frame_words(reference)
    if sorted(a) == sorted(b):
        return lang not in FREE_ORDER and _is_swapped(a, b)
    short, long = sorted((a, b), key=lambda words: (len(words), words))  # the same both ways
    sentence = 3 * _SENTENCE if lang in ("zh", "ja") else _SENTENCE
    if len(short) >= sentence and long[: len(short)] == short:
        return not empty.issuperset(long[len(short) :])
    common, is_refilled = 0, False
    matcher = difflib.SequenceMatcher(None, short, long, autojunk=False)
    for kind, i, j, k, m in matcher.get_opcodes():
        if kind == "equal":
            common += j - i
        elif not empty.issuperset(short[i:j] + long[k:m]):
            if empty.issuperset(short[i:j]) or empty.issuperset(long[k:m]):
                return False  # said at another place, or left out
            is_refilled = True
    # A single word is a frame that nothing is left of: "north", "south".
    return is_refilled and (2 * common >= len(long) or len(long) == 1)


def agreement(candidate: str, reference: str) -> bool:
    """Whether the facts of two texts agree as far as their surface tells, in both directions.

    Numbers: the same set of values ("seven" = "7" = "7.0"; 1,234 = 1234), however often each is
    said; a bare "one", "first" or "second" need not be matched. Units, currencies: a number that
    both texts give a known one has the same one; both texts or none count in per cent. Codes: not
    both texts have a time, date, ratio or address that the other lacks. Names: every capitalised
    name shares a word with the other text, compared without case and accents, and not both texts
    have name words that the other lacks. The word that opens a sentence counts as a name only in
    that last rule ("Paris is the capital", "Lyon is the capital") and in texts without a
    lower-case word ("Paris"). Negation: the same number of sentences carry one. Frame: texts of the
    same frame are filled with the same words, and neither text goes on where the other, a
    sentence, ends. So a synonym in an otherwise equal text is refused, too.
    """
    lang = language(" ".join(sorted((candidate, reference))))
    # In the second view zeros count, so that "3.10" is the same as "Release 3.10".
    pair, verbatim = (
        (spell_symbols(candidate, is_verbatim=v), spell_symbols(reference, is_verbatim=v))
        for v in (False, True)
    )
    return (
        _units_agree(*pair)
        and _codes_agree(*pair)
        and _negated_sentences(pair[0], lang) == _negated_sentences(pair[1], lang)
        and _names_agree(*pair, lang)
        and any(_numbers_agree(*v) and not _is_refilled(*v, lang) for v in {pair, verbatim})
    )


def ungrounded(text: str, source: str) -> list[str]:
    """Names and numbers of `text` that `source` lacks: what its writer made up.

    A capitalised word is a name unless it opens a sentence or is a common word; it is grounded if
    it occurs in `source` in any case. Numbers compare by value; list markers and a bare "one",
    "first" or "second" are ignored.

    Returns:
      The folded names (lower case, no accents), then the numbers in digits, each once, in order.
    """
    known = _facts(source)
    texts = [spell_symbols(text, is_verbatim=v) for v in (False, True)]
    certain = [word for name in _names(texts[0], known.lang) for word in name.certain]
    names = [word for word in certain if stem(word, known.lang) not in known.stems]
    views = zip(*(_required_numbers(view)[0] for view in texts))
    values = [plain for plain, verbatim in views if known.numbers.isdisjoint((plain, verbatim))]
    return list(dict.fromkeys(names + values))


class _Facts(NamedTuple):
    """What a source knows: the stems of its words and its numbers, in its language."""

    lang: str
    stems: frozenset[str]
    numbers: frozenset[str]


@functools.lru_cache(maxsize=64)  # a night asks many questions about each of few pages
def _facts(source: str) -> _Facts:
    lang = language(source)
    # In the second view zeros count, as in `agreement`.
    views = [spell_symbols(source, is_verbatim=v) for v in (False, True)]
    values = (value for view in views for value in numbers(normalize_quantities(view)))
    stems = frozenset(stem(word, lang) for word in _words(views[0]))
    return _Facts(lang, stems, frozenset(values))
