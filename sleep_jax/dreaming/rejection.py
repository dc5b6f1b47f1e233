"""Rejection of dreams: reasons why a text is not kept as a dream about its context.

short           fewer words than `min_words`, e.g. none
loop            more than `max_repeated` of its 4-grams occurred before in it
script          less than `min_script` of its letters are in a script of the context
language        less than `min_known` of its lower-case words occur in the context
copy            a similarity to the context of at least `similarity`
recipe          its template asks for a recipe, and it does not parse as one (`dreaming.recipe`)
duplicate       the same words as an earlier dream about the same context, of any night
near_duplicate  a similarity to an earlier one of at least `similarity`

Another language shares names and numbers with the context, but no function words; so languages are
compared by words in lower case. Of 2,000 English dreams about SQuAD passages, each shared at least
0.14 of them with its passage, half of them 0.68; translations into French, German and Spanish less
than 0.05.
"""

import dataclasses
from collections.abc import Sequence

from sleep_jax.data.answers import normalize_characters, split_words, words
from sleep_jax.data.languages import scripts
from sleep_jax.dreaming.recipe import RecipeError, parse_recipe
from sleep_jax.settings import Settings, setting

REASONS = ("short", "loop", "script", "language", "copy", "recipe", "duplicate", "near_duplicate")
NGRAM = 4  # words
MIN_CONTEXT_WORDS = 20  # to compare languages; a dream needs a quarter of that
MIN_SCRIPT_SHARE = 0.05  # of a context's letters, for a script to be one of the context


@dataclasses.dataclass(frozen=True)
class RejectionConfig(Settings, section="dreaming.rejection"):
    """Thresholds of rejection. Similarity is the Jaccard similarity of the sets of word 4-grams
    (Broder 1997).

    Raises:
      ValueError: a field is out of its range.
    """

    min_words: int = setting(5, "least words of a dream; 0: any", least=0)
    max_repeated: float = setting(
        0.5, "largest share of its word 4-grams that are repetitions", least=0, most=1
    )
    min_script: float = setting(
        0.8, "least share of its letters in a script of the document; 0: any", least=0, most=1
    )
    min_known: float = setting(
        0.1, "least share of its lower-case words in the document; 0: any", least=0, most=1
    )
    similarity: float = setting(
        0.8, "similarity at which dreams, or dream and document, count as equal; 0: never",
        least=0, most=1,
    )  # fmt: skip


def _ngrams(tokens: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)]


def repeated_share(text: str) -> float:
    """Share of the word 4-grams of a text that are repetitions, in [0, 1]; 0 if it has none."""
    ngrams = _ngrams(words(text))
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def script_share(text: str, context: str) -> float:
    """Share of the letters of a text in a script of the context; 1 where either has no letters."""
    counts, in_context = scripts(text), scripts(context)
    used = {s for s, n in in_context.items() if n >= MIN_SCRIPT_SHARE * in_context.total()}
    if not counts or not used:
        return 1.0
    return sum(n for script, n in counts.items() if script in used) / counts.total()


def known_share(text: str, context: str) -> float:
    """Share of the lower-case words of a text that occur in the context; 1 if there are too few."""
    known = words(context)
    lower_case = [
        word
        for word in split_words(normalize_characters(text))
        if word.isalpha() and word == word.lower()
    ]
    if len(known) < MIN_CONTEXT_WORDS or len(lower_case) < MIN_CONTEXT_WORDS / 4:
        return 1.0
    known = set(known)
    return sum(word.casefold() in known for word in lower_case) / len(lower_case)


def similarity(a: str, b: str) -> float:
    """Jaccard similarity of the sets of word 4-grams of two texts; a shorter text is one n-gram."""
    first, second = (set(_ngrams(x) or [tuple(x)]) for x in (words(a), words(b)))
    return len(first & second) / len(first | second)


def dream_rejection_reason(
    text: str, context: str, earlier: Sequence[str], rejection: RejectionConfig
) -> str | None:
    """Why a text is rejected as a dream.

    Args:
      text: the dream.
      context: the document it is about.
      earlier: existing dreams about this document.
      rejection: the thresholds.

    Returns:
      One of REASONS, or None if it is kept.
    """
    if len(words(text)) < rejection.min_words:
        return "short"
    if repeated_share(text) > rejection.max_repeated:
        return "loop"
    if script_share(text, context) < rejection.min_script:
        return "script"
    if known_share(text, context) < rejection.min_known:
        return "language"
    if not rejection.similarity:
        return None
    if similarity(text, context) >= rejection.similarity:
        return "copy"
    if any(words(text) == words(other) for other in earlier):
        return "duplicate"
    is_similar = any(similarity(text, other) >= rejection.similarity for other in earlier)
    return "near_duplicate" if is_similar else None


def recipe_rejection_reason(
    text: str, earlier: Sequence[str], rejection: RejectionConfig
) -> str | None:
    """Why a text is rejected as a recipe: `recipe`, `duplicate`, or None if it is kept.

    Args:
      text: the dream.
      earlier: existing recipes for the same task.
      rejection: the thresholds; with similarity 0 duplicates are kept.
    """
    try:
        recipe = parse_recipe(text)
    except RecipeError:
        return "recipe"
    is_known = rejection.similarity and recipe in map(parse_recipe, earlier)
    return "duplicate" if is_known else None
