"""Rejection: what the model wrote that is no dream about its context, and why.

short           fewer words than `min_words`; the empty dream is one
loop            more than `max_repeated` of its runs of four words were said before
script          less than `min_script` of its letters are of a script that the context uses
language        less than `min_known` of its lower-case words occur in the context
copy            at least `similarity` like the context
recipe          a configuration object was asked for, and it is none (`dreaming.recipe`)
duplicate       the words of an earlier dream about the same context, of this night or one before
near_duplicate  at least `similarity` like an earlier one

Names and numbers survive in another language, function words do not: so the language is told by
words in lower case. Of 2,000 English dreams about SQuAD passages each has at least 0.14 of its own
in the passage, half of them 0.68; French, German and Spanish renderings had less than 0.05.
"""

import dataclasses
from collections.abc import Sequence

from sleep_jax.data.answers import normalize_characters, split_words, words
from sleep_jax.data.languages import scripts
from sleep_jax.dreaming.recipe import RecipeError, parse_recipe
from sleep_jax.settings import Settings, setting

REASONS = ("short", "loop", "script", "language", "copy", "recipe", "duplicate", "near_duplicate")
RUN = 4  # words
JUDGED = 20  # words of a context, and a quarter as many of a dream, that tell a language
IN_USE = 0.05  # share of a context's letters from which on it uses a script


@dataclasses.dataclass(frozen=True)
class RejectionConfig(Settings, section="dreaming.rejection"):
    """From where on a dream is rejected. Likeness is the Jaccard similarity of the sets of
    four-word runs (Broder 1997).

    Raises:
      ValueError: a field is out of its range.
    """

    min_words: int = setting(5, "words that a dream has at least; 0: any", least=0)
    max_repeated: float = setting(
        0.5, "largest share of its four-word runs that were said before", least=0, most=1
    )
    min_script: float = setting(
        0.8, "least share of its letters in a script of the document; 0: any", least=0, most=1
    )
    min_known: float = setting(
        0.1, "least share of its lower-case words that the document has; 0: any", least=0, most=1
    )
    similarity: float = setting(
        0.8, "likeness from which on two dreams, or dream and document, are one; 0: never",
        least=0, most=1,
    )  # fmt: skip


def _runs(said: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(said[i : i + RUN]) for i in range(len(said) - RUN + 1)]


def repeated_share(text: str) -> float:
    """Share of its runs of four words that were said before, in [0, 1]; 0 without any."""
    runs = _runs(words(text))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def script_share(text: str, context: str) -> float:
    """Share of its letters that are of a script which the context uses; 1 where either has none."""
    said, read = scripts(text), scripts(context)
    used = {script for script, n in read.items() if n >= IN_USE * read.total()}
    if not said or not used:
        return 1.0
    return sum(n for script, n in said.items() if script in used) / said.total()


def known_share(text: str, context: str) -> float:
    """Share of its lower-case words that occur in the context; 1 where too few tell."""
    known = words(context)
    said = [
        word
        for word in split_words(normalize_characters(text))
        if word.isalpha() and word == word.lower()
    ]
    if len(known) < JUDGED or len(said) < JUDGED / 4:
        return 1.0
    known = set(known)
    return sum(word.casefold() in known for word in said) / len(said)


def similarity(a: str, b: str) -> float:
    """Jaccard similarity of the sets of four-word runs of two texts; shorter texts are one run."""
    first, second = (set(_runs(said) or [tuple(said)]) for said in (words(a), words(b)))
    return len(first & second) / len(first | second)


def dream_rejection_reason(
    text: str, context: str, earlier: Sequence[str], rejection: RejectionConfig
) -> str | None:
    """Why a text is no new dream about its context; None where it is one.

    Args:
      text: what was written.
      context: what it is about.
      earlier: the dreams about this context that there are.
      rejection: from where on it is rejected.

    Returns:
      One of REASONS, or None.
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
    alike = any(similarity(text, other) >= rejection.similarity for other in earlier)
    return "near_duplicate" if alike else None


def recipe_rejection_reason(
    text: str, earlier: Sequence[str], rejection: RejectionConfig
) -> str | None:
    """The same of a configuration object: `recipe`, `duplicate` or None."""
    try:
        recipe = parse_recipe(text)
    except RecipeError:
        return "recipe"
    is_known = rejection.similarity and recipe in map(parse_recipe, earlier)
    return "duplicate" if is_known else None
