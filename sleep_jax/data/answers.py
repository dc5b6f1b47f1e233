"""What counts as the same text: the one normalisation that grading, rewards and study share.

    tidy          one character for each meaning: quotes, hyphens, spaces, digits, widths
    spell         tidied, and in words what a mark alone would tell apart: O+, C#, <5, Vitamin A
    fold          without case and accents
    words         case folded; a character each where a script has no spaces
    answer_words  what two answers have in common if they are one: quantities in one spelling, no
                  articles, no punctuation

NFKC (Unicode Standard Annex 15) alone would make 10² a 102, 3½ a 31/2 and Acme™ an AcmeTM.
"""

import re
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

_SIGNS = "$¢£¥€₩₹₽"  # currencies that `quantities` knows
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
# No article: within a sentence in capitals, or where a phrase ends.
_LETTER = re.compile(
    r"(?<=\w )A(?![\w'-]| [A-Z])|(?<=[\w:,] )[Aa](?=[\"')\]]*(?:[.,;:!?]|\s*$))|\A\W*[Aa]\W*\Z",
    re.MULTILINE,
)
# A number behind a name counts nothing, so that 3.10 is not 3.1.
_NUMBERED = re.compile(
    r"(\b(?:(?!USD|EUR|GBP|JPY|CHF)[A-Z](?!\w*ly )[\w+#]*"
    r"|version|release|build|section|chapter|figure|table) )(\d+\.\d+)(?![\d.]*\d)"
)
_DECIMAL = re.compile(rf"(?<![\w.{_SIGNS}])(?<![{_SIGNS}] )()(\d+\.\d+)(?![\d.]*\d)")

# Scripts whose vowels are marks, which \w lacks.
_MARKED = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
_ACCENT = re.compile("(?<=[A-Za-z\u0370-\u03ff])[\u0300-\u036f]+|[\u0591-\u05bd\u064b-\u065f]")
_LETTERS = rf"(?:(?![{UNSPACED}])[\w{_MARKED}])+"
_WORD = re.compile(rf"[{UNSPACED}]|{_LETTERS}")
_ANSWER_WORD = re.compile(  # katakana spell whole words: "リス" is not in "クリスマス"
    rf"[{KATAKANA}]+|[{UNSPACED}]|−?{_LETTERS}(?:(?<=\d)[.:](?=\d){_LETTERS})*"
)
_ARTICLES = frozenset(("a", "an", "the"))


def normalize_characters(text: str) -> str:
    """One character for each meaning; case, accents and line ends stay."""
    text = _INVISIBLE.sub("", _THOUSANDS.sub("", text)).translate(_ONE_CHARACTER)
    text = re.sub("[⁻⁰¹²³⁴-⁹]+", lambda m: "^" + m[0].translate(_SUPERSCRIPTS), text)
    text = re.sub("[¼-¾⅐-⅞]", r" \g<0>", text)
    text = _COMPATIBLE.sub(lambda m: unicodedata.normalize("NFKC", m[0]), text).replace("⁄", "/")
    text = re.sub(r"[^\x00-\x7f]", _one_character, text)
    return re.sub(r"[^\S\n]", " ", text)


def _one_character(match: re.Match) -> str:
    """ASCII digits, and the names of currencies without a sign that is known."""
    character = match[0]
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    if unicodedata.category(character) == "Sc" and character not in _SIGNS:
        return f" {unicodedata.name(character).removesuffix(' SIGN').split()[-1].lower()} "
    return character


def spell_symbols(text: str, *, is_verbatim: bool = False) -> str:
    """Tidied, and in words what a mark or a capital alone would tell apart.

    "O+" -> "Oplus", "C#" -> "Csharp", "<5" -> "less than 5", "10²" -> "10pow2", "Vitamin A" ->
    "Vitamin LetterA", "Release 3.10" -> "Release v3.10", whose zero counts.

    Args:
      text: any.
      is_verbatim: the zeros of all numbers count which no unit follows: "3.10" -> "v3.10".
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
    """Without case, and without accents on Latin and Greek letters: "Zürich" -> "zurich"."""
    text = _ACCENT.sub("", unicodedata.normalize("NFD", text.casefold()))
    return unicodedata.normalize("NFC", text).replace("ё", "е")


def split_words(text: str) -> list[str]:
    """Its words as they are spelt; a character each where a script has no spaces."""
    return _WORD.findall(text)


def words(text: str) -> list[str]:
    """Its words, tidied and case folded."""
    return split_words(normalize_characters(text).casefold())


def answer_words(text: str, *, is_verbatim: bool = False) -> list[str]:
    """What is left of an answer for comparison: words without articles, case, accents and
    punctuation, numbers in digits with their signs, units by name, parts of compounds apart."""
    text = normalize_quantities(spell_symbols(text, is_verbatim=is_verbatim)).casefold()
    text = re.sub(r"(?<!\w)-(?=\d)", "−", text)  # a sign
    text = re.sub(r"'|\.(?!\d)|(?<!\d)\.", "", text.replace("_", " "))
    return [fold_accents(word) for word in _ANSWER_WORD.findall(text) if word not in _ARTICLES]


def canonical(text: str) -> str:
    """One spelling of what is the same question or answer; the text itself where that has no
    words."""
    return " ".join(answer_words(text)) or text.strip()


def content_words(text: str) -> set[str]:
    """The words that say what a text is about, folded: no stop words of its language, no lone
    letters. Chinese characters and runs of katakana are words, hiragana none; in scripts like Thai,
    runs of four characters."""
    name = language(text)
    stops = set(map(fold_accents, stop_words(name)))
    text = re.sub(r"'\w{1,2}\b", "", fold_accents(normalize_characters(text)))
    spaced = [word for word in re.findall(_LETTERS, text) if len(word) > 1 or not word.isalpha()]
    content = {stem(word, name) for word in spaced if word not in stops}
    content |= set(re.findall(rf"[{KATAKANA}]{{2,}}|[{HAN}]", text))
    for run in re.findall(f"[{UNSEGMENTED}]+", text):
        content |= {run[i : i + 4] for i in range(max(1, len(run) - 3))}
    return content - stops
