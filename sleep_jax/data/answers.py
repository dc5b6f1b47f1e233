"""Normalisation of answers: the only one, shared by grading, rewards and study.

    normalize_characters  one character for each of quotes, hyphens, spaces, digits, widths
    spell_symbols         that, and symbols that tell answers apart as words: O+, C#, <5, Vitamin A
    fold_accents          without case and accents
    words                 case-folded words; single characters in scripts without spaces
    answer_words          the words by which answers are compared: quantities in one spelling, no
                          articles, no punctuation
    squad_words           the same by the SQuAD v1.1 evaluation, for published figures; English only

NFKC (Unicode Standard Annex 15) alone would make 10² a 102, 3½ a 31/2 and Acme™ an AcmeTM.
"""

import re
import string
import unicodedata

from sleep_jax.data.languages import (
    HAN,
    KATAKANA,
    UNSEGMENTED,
    UNSPACED,
    language,
    stem,
    stop_words,
)
from sleep_jax.data.quantities import is_measured, normalize_quantities

_SIGNS = "$¢£¥€₩₹₽"  # currencies of `quantities`
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_ONE_CHARACTER = str.maketrans(
    {
        **dict.fromkeys("’‘‚‛ʼʹ′`´", "'"),
        **dict.fromkeys("“”„‟″‶«»‹›「」『』〝〞〟", '"'),
        **dict.fromkeys("‐‑‒–−﹣－", "-"),
        **dict.fromkeys("―﹘", "—"),
        **dict.fromkeys("•‣◦⁃▪●○■□◆・·¿¡¨", " "),
        **dict.fromkeys("™℠®©", ""),
        **dict.fromkeys("º˚", "°"),
        "♯": "#",
        "♭": "flat",
        "№": "No. ",
    }
)
_THOUSANDS = re.compile("(?<=[0-9])[\u00a0\u2007\u2009\u202f](?=[0-9]{3}(?![0-9]))")
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
_COMPATIBLE = re.compile("[^…]+")  # three dots would end a sentence

_COMPARED = {"<": "less than", ">": "more than", "≤": "at most", "≥": "at least"}
_COMPARED |= {"±": "plus or minus", "<=": "at most", ">=": "at least"}
_COMPARISON = re.compile(rf"(?<![-=<>])(?:[<>]=?|[≤≥±] ?|(?<=\w )[<>] )(?=-?[{_SIGNS}]?\d)")
_PLUS = re.compile(r"(?<=[^\W_])(\+\+?)(?!\w)")
_MINUS = re.compile(r"(?<![\w-])(AB|[A-FO]|Rh|Cl|OH)-(?![\w-])")  # blood groups, grades, ions
_SHARP = re.compile(r"(?<![\w#])([A-G])#(?!\w)")
# An A that is not an article: a capital within a sentence, or at the end of a phrase.
_LETTER = re.compile(
    r"(?<=\w )A(?![\w'-]| [A-Z])|(?<=[\w:,] )[Aa](?=[\"')\]]*(?:[.,;:!?]|\s*$))|\A\W*[Aa]\W*\Z",
    re.MULTILINE,
)
# A number after a name is a label, not a quantity, so 3.10 is not 3.1.
_NUMBERED = re.compile(
    r"(\b(?:(?!USD|EUR|GBP|JPY|CHF)[A-Z](?!\w*ly )[\w+#]*"
    r"|version|release|build|section|chapter|figure|table) )(\d+\.\d+)(?![\d.]*\d)"
)
_DECIMAL = re.compile(rf"(?<![\w.{_SIGNS}])(?<![{_SIGNS}] )()(\d+\.\d+)(?![\d.]*\d)")

# Combining marks of scripts that write vowels with them; \w does not match marks.
_MARKED = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
_ACCENT = re.compile("(?<=[A-Za-z\u0370-\u03ff])[\u0300-\u036f]+|[\u0591-\u05bd\u064b-\u065f]")
_LETTERS = rf"(?:(?![{UNSPACED}])[\w{_MARKED}])+"
_WORD = re.compile(rf"[{UNSPACED}]|{_LETTERS}")
_ANSWER_WORD = re.compile(  # runs of katakana are words: "リス" is not in "クリスマス"
    rf"[{KATAKANA}]+|[{UNSPACED}]|−?{_LETTERS}(?:(?<=\d)[.:](?=\d){_LETTERS})*"
)
_ARTICLES = frozenset(("a", "an", "the"))
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_characters(text: str) -> str:
    """One character for each meaning, e.g. one kind of quotes; keeps case, accents and line
    ends.
    """
    text = _INVISIBLE.sub("", _THOUSANDS.sub("", text)).translate(_ONE_CHARACTER)
    text = re.sub("[⁻⁰¹²³⁴-⁹]+", lambda m: "^" + m[0].translate(_SUPERSCRIPTS), text)
    text = re.sub("[¼-¾⅐-⅞]", r" \g<0>", text)
    text = _COMPATIBLE.sub(lambda m: unicodedata.normalize("NFKC", m[0]), text).replace("⁄", "/")
    text = re.sub(r"[^\x00-\x7f]", _one_character, text)
    return re.sub(r"[^\S\n]", " ", text)


def _one_character(match: re.Match) -> str:
    """A digit in ASCII; the name of a currency whose sign is not in `_SIGNS`; else the
    character.
    """
    character = match[0]
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    if unicodedata.category(character) == "Sc" and character not in _SIGNS:
        return f" {unicodedata.name(character).removesuffix(' SIGN').split()[-1].lower()} "
    return character


def spell_symbols(text: str, *, is_verbatim: bool = False) -> str:
    """Normalized characters, with words for symbols and capitals that alone tell answers apart.

    "O+" -> "Oplus", "C#" -> "Csharp", "<5" -> "less than 5", "10²" -> "10pow2", "Vitamin A" ->
    "Vitamin LetterA", "Release 3.10" -> "Release v3.10", whose zero counts.

    Args:
      text: any.
      is_verbatim: trailing zeros count in all numbers without a unit: "3.10" -> "v3.10".
    """
    text = _COMPARISON.sub(lambda m: f"{_COMPARED[m[0].strip()]} ", normalize_characters(text))
    text = _PLUS.sub(lambda m: "plus" * len(m[1]), text)
    text = _SHARP.sub(r"\1sharp", _MINUS.sub(r"\1minus", text))
    text = re.sub(r"(?<=\d)\^(?=-?\d)", "pow", text)
    text = _LETTER.sub(lambda m: f"{'Letter' if 'A' in m[0] else 'letter'}A", text)
    return (_DECIMAL if is_verbatim else _NUMBERED).sub(_numbered, text)


def _numbered(match: re.Match) -> str:
    is_name = match[1].strip().lower() not in stop_words("en")
    is_counted = is_measured(match.string, match.start(2)) or not is_name
    is_whole = match[2].endswith(".0")  # "Magnitude 7.0", "a magnitude of 7"
    return match[0] if is_counted or is_whole else f"{match[1]}v{match[2]}"


def fold_accents(text: str) -> str:
    """Case-folded, without accents on Latin and Greek letters: "Zürich" -> "zurich"."""
    text = _ACCENT.sub("", unicodedata.normalize("NFD", text.casefold()))
    return unicodedata.normalize("NFC", text).replace("ё", "е")


def split_words(text: str) -> list[str]:
    """The words of a text, unchanged; single characters in scripts without spaces."""
    return _WORD.findall(text)


def words(text: str) -> list[str]:
    """The words of a text with normalized characters, case-folded."""
    return split_words(normalize_characters(text).casefold())


def answer_words(text: str, *, is_verbatim: bool = False) -> list[str]:
    """The words by which an answer is compared with another: without articles, case, accents and
    punctuation; numbers in digits with their signs, units by name, compounds split.

    Args:
      text: an answer in any script.
      is_verbatim: as for `spell_symbols`.
    """
    text = normalize_quantities(spell_symbols(text, is_verbatim=is_verbatim)).casefold()
    text = re.sub(r"(?<!\w)-(?=\d)", "−", text)  # a sign, not a hyphen
    text = re.sub(r"'|\.(?!\d)|(?<!\d)\.", "", text.replace("_", " "))
    return [fold_accents(word) for word in _ANSWER_WORD.findall(text) if word not in _ARTICLES]


def canonical(text: str) -> str:
    """One spelling for equal questions or answers: `answer_words` joined, or the text itself where
    it has none.
    """
    return " ".join(answer_words(text)) or text.strip()


def squad_words(text: str) -> list[str]:
    """The words of an answer by the SQuAD v1.1 evaluation (Rajpurkar et al. 2016, arXiv
    1606.05250): lower case, without ASCII punctuation and the articles a, an, the. Made for
    English.
    """
    text = text.lower().translate(_ASCII_PUNCTUATION)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def content_words(text: str) -> set[str]:
    """The content words of a text, folded and stemmed, without stop words and single letters.

    Chinese characters and runs of katakana are words, hiragana is skipped; in scripts without
    spaces, such as Thai, runs of four characters are words.
    """
    name = language(text)
    stops = set(map(fold_accents, stop_words(name)))
    text = re.sub(r"'\w{1,2}\b", "", fold_accents(normalize_characters(text)))
    spaced = [word for word in re.findall(_LETTERS, text) if len(word) > 1 or not word.isalpha()]
    content = {stem(word, name) for word in spaced if word not in stops}
    content |= set(re.findall(rf"[{KATAKANA}]{{2,}}|[{HAN}]", text))
    for run in re.findall(f"[{UNSEGMENTED}]+", text):
        content |= {run[i : i + 4] for i in range(max(1, len(run) - 3))}
    return content - stops
