"""Rules of agreement: facts in which two texts of the same meaning may not differ.

The rules read surface forms, mainly English. A changed common noun is noticed only where the texts
are otherwise the same sentence; in a paraphrase it passes. In German a noun after an article is not
a name; in scripts without capitals every content word may be one. Number words are English.
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

# Capitalised in titles, labels and greetings without being names.
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
# Function words: exchanging them changes no fact.
_FUNCTION_WORDS = """
1 and as at be been by did do does for from had has have he her his if in is it its of on or our she
that their there these they this those to was we were which who with you your
"""
_FUNCTION = frozenset(_FUNCTION_WORDS.split())
_HIRAGANA = frozenset(map(chr, range(0x3041, 0x30A0)))  # particles and endings
# Words whose two sides may be exchanged: "Oslen is the capital", "the capital is Oslen".
_SYMMETRIC_WORDS = "is are was were and or it ist sind war waren und oder это и или 是 和 は"
_SYMMETRIC = frozenset(_SYMMETRIC_WORDS.split())
_TITLES = frozenset(("a", "an", "the", "mr", "mrs", "ms", "dr", "doctor", "prof", "professor"))
_SENTENCE = 3  # least words of a sentence; fewer are a short answer
_SENTENCE_END = re.compile(r"(?<!\b[A-Z])(?<!\b[DMS][rst])(?<!\bMrs)\.(?!\d)|[!?;:\n\"“”(。।]")
_LIST_MARKER = re.compile(r"^\s*(?:\d{1,2}[.)]|[-*•])\s+(?=\S)", re.MULTILINE)
_TOKEN = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+(?:['’][^\W\d_]+)*|[^\w\s]|\n")
# Numbers whose parts have an order: times, dates, ratios, addresses.
_ORDERED = re.compile(r"(?<![\w.])\d+(?:[:/]\d+|\.\d+\.\d+|-\d+-\d+)(?:[:/.-]\d+)*(?!\w)")


class _Name(NamedTuple):
    """A run of capitalised words: `certain` ones, and `opening` ones, which begin a sentence and
    may be capitalised for that."""

    certain: tuple[str, ...]
    opening: tuple[str, ...]


def _fold(word: str) -> str:
    """Lower case, no accents, no possessive: "Zürich's" -> "zurich"."""
    return fold_accents(word).removesuffix("'s")


def _words(text: str) -> set[str]:
    return {_fold(word) for word in _TOKEN.findall(normalize_quantities(text))}


def _without_markers(text: str) -> str:
    """The text with list numbers and bullets, which are not facts, replaced by sentence ends."""
    return _LIST_MARKER.sub(". ", text)


def _names(text: str, lang: str) -> list[_Name]:
    """Runs of capitalised words of a text in a language, in order."""
    text = normalize_quantities(_without_markers(text))
    ends = {match.start() for match in _SENTENCE_END.finditer(text)}
    tokens = [*_TOKEN.finditer(text)]
    common = _COMMON if lang == "en" else _COMMON | stop_words(lang)
    nouns = _nouns([token[0] for token in tokens]) if lang == "de" else ()
    names, certain, opening = [], [], []
    is_opening, previous = True, ""
    for i, match in enumerate([*tokens, None]):
        token = match[0] if match else ""
        is_end = match is None or match.start() in ends
        is_month = token == "May" and previous.isdigit()
        is_common = (_fold(token) in common and not is_month) or i in nouns
        previous = token
        if token[:1].isupper() and not is_common:
            (opening if is_opening else certain).append(_fold(token))
        elif (certain or opening) and (is_end or token not in "-."):  # "Anglo-Saxon", "J. Smith"
            names.append(_Name(tuple(certain), tuple(opening)))
            certain, opening = [], []
        if is_end or token not in "'‘*#":  # marks that may precede the first word
            is_opening = is_end
    return names


def _nouns(tokens: list[str]) -> set[int]:
    """Indices of the common nouns of a German text: after an article or a small number, adjectives
    in between allowed ("der große alte Turm")."""
    nouns, is_after_determiner = set(), False
    for i, token in enumerate(tokens):
        if is_after_determiner and token[:1].isupper():
            nouns.add(i)
        is_adjective = is_after_determiner and re.fullmatch(
            r"[^\W\d_A-ZÄÖÜ][^\W\d_]*e[mnrs]?", token
        )
        is_number = token.isdigit() and len(token) < 4
        is_after_determiner = token.casefold() in DETERMINERS or is_number or bool(is_adjective)
    return nouns


def _required_numbers(text: str) -> tuple[list[str], set[str]]:
    """(numbers that the other text must have, all numbers): "one", "first" and "second" are often
    not counts and need not be matched."""
    text = _without_markers(text)
    values = numbers(normalize_quantities(text))
    vague = set()
    for words, value in ((r"one|first", "1"), (r"second", "2")):
        if re.search(rf"\b(?:{words})\b", text, re.IGNORECASE):
            vague.add(value)
    vague -= set(re.findall(r"\d+", text))
    return [value for value in values if value not in vague], set(values)


def _numbers_agree(candidate: str, reference: str) -> bool:
    required, numbers_of_candidate = _required_numbers(candidate)
    required_back, numbers_of_reference = _required_numbers(reference)
    is_complete = numbers_of_candidate.issuperset(required_back)
    return numbers_of_reference.issuperset(required) and is_complete


def _negated_sentences(text: str, lang: str) -> int:
    negations = {NEGATIONS["en"], NEGATIONS.get(lang, NEGATIONS["en"])}
    parts = _SENTENCE_END.split(text)
    return sum(any(negation.search(part) for negation in negations) for part in parts)


def _names_agree(candidate: str, reference: str, lang: str) -> bool:
    """Whether no name was exchanged; one text may shorten a name ("Ada Lovelace", "Lovelace")."""
    missing = []  # per text: words of its names that the other text lacks
    for text, other in ((candidate, reference), (reference, candidate)):
        known, unknown = _words(other), set()
        # "Paris", "Ada Lovelace": not a sentence, so the first word is a name like the others.
        is_fragment = not any(token[0].islower() for token in _TOKEN.findall(text))
        for name in _names(text, lang):
            words = name.opening + name.certain
            if known.isdisjoint(words) and (name.certain or is_fragment):
                return False
            unknown |= set(words) - known
        missing.append(unknown)
    if lang not in CASED:
        words, other_words = (
            content_words(normalize_quantities(text)) for text in (candidate, reference)
        )
        missing = [words - other_words, other_words - words]
    return not (missing[0] and missing[1])


def _units_agree(candidate: str, reference: str) -> bool:
    """Whether numbers with units in both texts share a unit, and both or none use per cent."""
    pair = units(candidate), units(reference)
    uses_percent = [any("percent" in names for names in names_of.values()) for names_of in pair]
    shared = pair[0].keys() & pair[1].keys()
    return uses_percent[0] == uses_percent[1] and all(pair[0][n] & pair[1][n] for n in shared)


def _ordered_numbers_agree(candidate: str, reference: str) -> bool:
    """Whether at most one text has a time, date, ratio or address that the other lacks."""
    in_candidate, in_reference = (set(_ORDERED.findall(text)) for text in (candidate, reference))
    return in_candidate <= in_reference or in_reference <= in_candidate


def _frame_words(text: str) -> list[str]:
    """The words of a text in singular, without articles and titles."""
    words = map(_fold, _TOKEN.findall(normalize_quantities(_without_markers(text))))
    words = [word for word in words if word[:1].isalnum() and word not in _TITLES]
    return [w if w in _FUNCTION or len(w) <= 3 else w.removesuffix("s") for w in words]


def _is_swapped(a: list[str], b: list[str]) -> bool:
    """Whether words changed places around a word that stayed: "fox bit dog", "dog bit fox".

    Args:
      a, b: the same words, perhaps in another order.
    """
    moved = [i for i, (x, y) in enumerate(zip(a, b)) if x != y]
    if not moved:
        return False
    stayed = set(range(moved[0], moved[-1])) - set(moved)
    return any(a[i] not in _SYMMETRIC for i in stayed)


def _is_refilled(candidate: str, reference: str, lang: str) -> bool:
    """Whether the texts are one sentence with a content word replaced, or one continues the other.

    "The gate is of oak", "The gate is of iron". At least half of the longer text must be common to
    both, in order, and they may differ in replaced words only: a paraphrase hardly ever leaves the
    rest unchanged.
    """
    function_words = _FUNCTION if lang == "en" else _FUNCTION | stop_words(lang) | _HIRAGANA
    a, b = _frame_words(candidate), _frame_words(reference)
    if sorted(a) == sorted(b):
        return lang not in FREE_ORDER and _is_swapped(a, b)
    short, long = sorted((a, b), key=lambda words: (len(words), words))  # the same both ways
    sentence = 3 * _SENTENCE if lang in ("zh", "ja") else _SENTENCE
    if len(short) >= sentence and long[: len(short)] == short:
        return not function_words.issuperset(long[len(short) :])
    common, is_refilled = 0, False
    matcher = difflib.SequenceMatcher(None, short, long, autojunk=False)
    for kind, i, j, k, m in matcher.get_opcodes():
        if kind == "equal":
            common += j - i
        elif not function_words.issuperset(short[i:j] + long[k:m]):
            if function_words.issuperset(short[i:j]) or function_words.issuperset(long[k:m]):
                return False  # moved or left out
            is_refilled = True
    # Of a single word nothing is common: "north", "south".
    return is_refilled and (2 * common >= len(long) or len(long) == 1)


def agreement(candidate: str, reference: str) -> bool:
    """Whether the facts of two texts agree, judged by surface forms; symmetric.

    numbers      the same set of values ("seven" = "7" = "7.0"; 1,234 = 1234), however often each
                 occurs; a bare "one", "first" or "second" need not be matched
    units        a number with a known unit or currency in both texts has the same one in both; both
                 texts or none use per cent
    order        at most one text has a time, date, ratio or address that the other lacks
    names        every capitalised name shares a word with the other text, without case and accents,
                 and at most one text has name words that the other lacks. The first word of a
                 sentence counts as a name only in the latter rule ("Paris is the capital", "Lyon is
                 the capital") and in texts without a lower-case word ("Paris")
    negation     the same number of sentences are negated
    replacement  the texts are not one sentence with content words replaced, and neither continues
                 the other, if that is a sentence. So a synonym in an otherwise equal text is
                 rejected, too
    """
    lang = language(" ".join(sorted((candidate, reference))))
    # Verbatim, trailing zeros count, so that "3.10" is the same as "Release 3.10".
    pair, verbatim = (
        (spell_symbols(candidate, is_verbatim=v), spell_symbols(reference, is_verbatim=v))
        for v in (False, True)
    )
    return (
        _units_agree(*pair)
        and _ordered_numbers_agree(*pair)
        and _negated_sentences(pair[0], lang) == _negated_sentences(pair[1], lang)
        and _names_agree(*pair, lang)
        and any(_numbers_agree(*v) and not _is_refilled(*v, lang) for v in {pair, verbatim})
    )


def ungrounded(text: str, source: str) -> list[str]:
    """Names and numbers of `text` that do not occur in `source`.

    A capitalised word is a name unless it begins a sentence or is a common word; it is grounded if
    it occurs in `source` in any case. Numbers are compared by value; list markers and a bare "one",
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
    """The language of a source, the stems of its words, and its numbers."""

    lang: str
    stems: frozenset[str]
    numbers: frozenset[str]


@functools.lru_cache(maxsize=64)  # many questions are checked against each of a few pages
def _facts(source: str) -> _Facts:
    lang = language(source)
    # Verbatim, trailing zeros count, as in `agreement`.
    views = [spell_symbols(source, is_verbatim=v) for v in (False, True)]
    values = (value for view in views for value in numbers(normalize_quantities(view)))
    stems = frozenset(stem(word, lang) for word in _words(views[0]))
    return _Facts(lang, stems, frozenset(values))
