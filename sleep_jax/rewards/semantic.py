"""r_sem of Eq. 3 ("Language Models Need Sleep"): do two texts mean the same, 0 or 1.

Embedding cosine says whether two texts are about the same thing, but hardly moves when one fact is
changed or negated. So it is only a gate; numbers, names and negation must agree as well. These
rules read surface forms of English: a swapped common noun or antonym still passes.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from sleep_jax.rewards.numerals import normalize_numbers, numbers

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
_NEGATION = re.compile(
    r"\b(?:not(?!\s+only\b)|no(?!\.\s*\d)|never|none|nobody|nothing|nowhere|neither|without|cannot"
    r"|lack(?:s|ed|ing)?|unable|fail(?:s|ed)?\s+to|\w+n['’]t)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<!\b[A-Z])(?<!\b[DMS][rst])(?<!\bMrs)\.(?!\d)|[!?;:\n\"“”(]")
_LIST_MARKER = re.compile(r"^\s*(?:\d{1,2}[.)]|[-*•])\s+(?=\S)", re.MULTILINE)
_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)*|[^\w\s]|\n")


class Encoder(Protocol):
    """Anything that turns n texts into n vectors, such as `models.encoder.SentenceEncoder`."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """[n] texts to [n, width] vectors."""


class _Name(NamedTuple):
    """A run of capitalised words: `certain` ones, and one that may only open its sentence."""

    certain: tuple[str, ...]
    opening: tuple[str, ...]


def _fold(word: str) -> str:
    """Lower case, no accents, no possessive: "Zürich's" -> "zurich"."""
    word = unicodedata.normalize("NFKD", word.replace("’", "'").casefold())
    word = "".join(c for c in word if not unicodedata.combining(c))
    return word.removesuffix("'s")


def _words(text: str) -> set[str]:
    return {_fold(word) for word in _TOKEN.findall(normalize_numbers(text))}


def _without_markers(text: str) -> str:
    """List numbering and bullets become sentence ends: they are no facts."""
    return _LIST_MARKER.sub(". ", text)


def _names(text: str) -> list[_Name]:
    """Runs of capitalised words, in order. A word that opens a sentence is not a certain name."""
    text = normalize_numbers(_without_markers(text))
    ends = {match.start() for match in _SENTENCE_END.finditer(text)}
    names, certain, opening = [], [], []
    is_opening = True
    for match in [*_TOKEN.finditer(text), None]:
        token = match[0] if match else ""
        is_end = match is None or match.start() in ends
        is_name = token[:1].isupper() and _fold(token) not in _COMMON
        if is_name:
            (opening if is_opening else certain).append(_fold(token))
        elif (certain or opening) and (is_end or token not in "-."):  # "Anglo-Saxon", "J. Smith"
            names.append(_Name(tuple(certain), tuple(opening)))
            certain, opening = [], []
        if is_end or token not in "'‘*#":  # marks that may stand before a first word
            is_opening = is_end
    return names


def _required_numbers(text: str) -> tuple[list[str], set[str]]:
    """The numbers that must be matched, and all: "one", "first", "second" often count nothing."""
    text = _without_markers(text)
    found = numbers(text)
    vague = set()
    for words, value in ((r"one|first", "1"), (r"second", "2")):
        if re.search(rf"\b(?:{words})\b", text, re.IGNORECASE):
            vague.add(value)
    vague -= set(re.findall(r"\d+", text))
    return [number for number in found if number not in vague], set(found)


def _negated_sentences(text: str) -> int:
    return sum(bool(_NEGATION.search(part)) for part in _SENTENCE_END.split(text))


def _names_agree(candidate: str, reference: str) -> bool:
    """No name was exchanged; one side may shorten a name ("Ada Lovelace", "Lovelace")."""
    missing = []  # per side: words of its names that the other side lacks
    for text, other in ((candidate, reference), (reference, candidate)):
        known, unknown = _words(other), set()
        # "Paris", "Ada Lovelace": no sentence, so the first word is a name like the others.
        is_fragment = not any(token[0].islower() for token in _TOKEN.findall(text))
        for name in _names(text):
            words = name.opening + name.certain
            if known.isdisjoint(words) and (name.certain or is_fragment):
                return False
            unknown |= set(words) - known
        missing.append(unknown)
    return not (missing[0] and missing[1])


def agreement(candidate: str, reference: str) -> bool:
    """Whether numbers, names and negation of two texts agree, in both directions.

    Numbers: the same set of values ("seven" = "7" = "7.0"; 1,234 = 1234), however often each is
    said; a bare "one", "first" or "second" need not be matched. Names: every capitalised name
    shares a word with the other text, compared without case and accents, and not both texts have
    name words that the other lacks. The word that opens a sentence counts as a name only in that
    last rule ("Paris is the capital", "Lyon is the capital") and in texts
    without a lower-case word ("Paris").
    Negation: the same number of sentences carry one.
    """
    required, found = _required_numbers(candidate)
    required_reference, found_reference = _required_numbers(reference)
    return (
        found_reference.issuperset(required)
        and found.issuperset(required_reference)
        and _negated_sentences(candidate) == _negated_sentences(reference)
        and _names_agree(candidate, reference)
    )


def ungrounded(text: str, source: str) -> list[str]:
    """Names and numbers of `text` that `source` lacks: what its writer made up.

    A capitalised word is a name unless it opens a sentence or is a common word; it is grounded if
    it occurs in `source` in any case. Numbers compare by value; list markers and a bare "one",
    "first" or "second" are ignored.

    Returns:
      The folded names (lower case, no accents), then the numbers in digits, each once, in order.
    """
    known, known_numbers = _words(source), set(numbers(source))
    names = [word for name in _names(text) for word in name.certain if word not in known]
    values = [value for value in _required_numbers(text)[0] if value not in known_numbers]
    return list(dict.fromkeys(names + values))


class SemanticJudge:
    """r_sem in {0, 1}: cosine of the embeddings at or over a threshold, and `agreement`."""

    def __init__(self, encoder: Encoder, threshold: float = 0.6):
        """Binds the judge.

        Args:
          encoder: gives the embeddings; they need not have norm 1.
          threshold: least cosine. With all-MiniLM-L6-v2, paraphrases score 0.63 to 0.98 and
            unrelated sentences under 0.15.
        """
        if not -1.0 <= threshold <= 1.0:
            raise ValueError(f"threshold={threshold} is no cosine; choose it within [-1, 1]")
        self.encoder = encoder
        self.threshold = threshold

    def cosine(self, candidates: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """Cosine of each pair: [n] float32. Each different text is embedded once."""
        texts = list(dict.fromkeys([*candidates, *references]))
        if not texts:
            return np.zeros(0, np.float32)
        vectors = np.asarray(self.encoder.encode(texts), np.float32)
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        row = {text: i for i, text in enumerate(texts)}
        a = vectors[[row[text] for text in candidates]]
        b = vectors[[row[text] for text in references]]
        return np.sum(a * b, axis=1)

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """Judges pairs of texts.

        Args:
          candidates: n texts of the student.
          references: n texts of the teacher.

        Returns:
          [n] float32 of 0 and 1. Two blank texts mean the same, one blank text never does.

        Raises:
          ValueError: if the two have different lengths.
        """
        if len(candidates) != len(references):
            raise ValueError(
                f"{len(candidates)} candidates, {len(references)} references; pass one each a pair"
            )
        out = np.zeros(len(candidates), np.float32)
        open_pairs = []
        for i, pair in enumerate(zip(candidates, references)):
            candidate, reference = (text.strip() for text in pair)
            if candidate == reference:
                out[i] = 1.0
            elif candidate and reference and agreement(candidate, reference):
                open_pairs.append(i)  # only these are worth an embedding
        cosine = self.cosine(
            [candidates[i] for i in open_pairs], [references[i] for i in open_pairs]
        )
        out[open_pairs] = cosine >= self.threshold
        return out
