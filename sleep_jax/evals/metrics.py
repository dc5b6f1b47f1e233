"""Metrics of short answers (exact match, F1, containment, integers, grids) and perplexity.

Answers in any script are compared by `data.answers.answer_words`. Figures that are compared with
published ones need `squad_exact_match` and `squad_f1`, those of the SQuAD v1.1 evaluation
(Rajpurkar et al. 2016, arXiv 1606.05250), made for English. An answer that has no words after
normalisation ("+") is compared by its raw words.

Every metric takes one accepted answer or several, and raises a ValueError if there is none.
"""

import collections
import functools
import math
import re
from collections.abc import Callable, Sequence

from sleep_jax.data.answers import answer_words, squad_words
from sleep_jax.data.numerals import normalize_numbers


def _as_list(answers: str | Sequence[str]) -> Sequence[str]:
    answers = [answers] if isinstance(answers, str) else answers
    if not answers:
        raise ValueError("answers is empty; give at least one accepted answer")
    return answers


_Pair = tuple[list[str], list[str]]  # (words of a prediction, words of an accepted answer)


def _words(prediction: str, answer: str, split: Callable[[str], list[str]]) -> _Pair:
    """The words of both by `split`; raw words where it leaves none of the answer."""
    reference = split(answer)
    return (split(prediction), reference) if reference else (_raw(prediction), _raw(answer))


def _raw(text: str) -> list[str]:
    return text.lower().split()


def _views(answer: str) -> list[bool]:
    """The values of `is_verbatim` by which an answer is compared: where it may be a version, also
    the one in which trailing zeros count, so that "3.10" equals "Release 3.10".
    """
    return [False, True] if "." in answer else [False]


def _pairs(prediction: str, answers: str | Sequence[str]) -> list[_Pair]:
    """The words by `answer_words`, for every accepted answer and view."""
    return [
        _words(prediction, answer, functools.partial(answer_words, is_verbatim=is_verbatim))
        for answer in _as_list(answers)
        for is_verbatim in _views(answer)
    ]


def _squad_pairs(prediction: str, answers: str | Sequence[str]) -> list[_Pair]:
    return [_words(prediction, answer, squad_words) for answer in _as_list(answers)]


def _is_match(pairs: Sequence[_Pair]) -> float:
    return float(any(words and words == reference for words, reference in pairs))


def _best_f1(pairs: Sequence[_Pair]) -> float:
    return max(_f1(words, reference) for words, reference in pairs)


def _f1(prediction: list[str], answer: list[str]) -> float:
    common = sum((collections.Counter(prediction) & collections.Counter(answer)).values())
    return 2.0 * common / (len(prediction) + len(answer)) if common else 0.0


def exact_match(prediction: str, answers: str | Sequence[str]) -> float:
    """1.0 if the prediction has exactly the words of an accepted answer (`answer_words`), else 0.0;
    an empty prediction equals no answer.
    """
    return _is_match(_pairs(prediction, answers))


def f1(prediction: str, answers: str | Sequence[str]) -> float:
    """Best bag-of-words F1 with any accepted answer (`answer_words`), in [0, 1]; 0 where no word is
    shared, also for two empty texts.
    """
    return _best_f1(_pairs(prediction, answers))


def squad_exact_match(prediction: str, answers: str | Sequence[str]) -> float:
    """1.0 if the prediction equals an accepted answer after SQuAD's normalisation, else 0.0; an
    empty prediction equals no answer.
    """
    return _is_match(_squad_pairs(prediction, answers))


def squad_f1(prediction: str, answers: str | Sequence[str]) -> float:
    """Best bag-of-words F1 with any accepted answer after SQuAD's normalisation, in [0, 1]; 0 where
    no word is shared, also for two empty texts.
    """
    return _best_f1(_squad_pairs(prediction, answers))


def contains_answer(prediction: str, answers: str | Sequence[str]) -> bool:
    """Whether an accepted answer occurs in the prediction as a run of whole words.

    Both are normalised by `answer_words`: numbers in digits ("seven" = "7", "1,250" = "1250"),
    units by name ("53m" = "53 metres"), any quotes and hyphens. A longer reply that states the
    answer counts. An answer of articles or symbols only must be the whole reply. Meaning is not
    considered: "not Paris" contains "Paris".
    """
    return any(
        _occurs(answer, prediction, is_verbatim)
        for answer in _as_list(answers)
        for is_verbatim in _views(answer)
    )


def _occurs(answer: str, prediction: str, is_verbatim: bool) -> bool:
    reference = answer_words(answer, is_verbatim=is_verbatim)
    if not reference:
        return bool(answer.strip()) and answer.strip() == prediction.strip()
    words, n = answer_words(prediction, is_verbatim=is_verbatim), len(reference)
    return any(words[i : i + n] == reference for i in range(len(words) - n + 1))


_INTEGER = re.compile(r"(?<![\w.])[-−]?\d++(?!\.\d)")
_MAX_DIGITS = 1000  # Python parses at most 4,300


def last_integer(text: str) -> int | None:
    """The last integer of a text, also in words ("seven") or with separators ("1,250"). None if
    there is none, or it has more than 1,000 digits. The 5 of 3.5 is not an integer.
    """
    integers = _INTEGER.findall(normalize_numbers(text))
    if not integers or len(integers[-1]) > _MAX_DIGITS:
        return None
    return int(integers[-1].replace("−", "-"))


def is_integer_right(prediction: str, answers: str | Sequence[str]) -> bool:
    """Whether the last integer of the prediction is that of an accepted answer.

    Raises:
      ValueError: an answer has no integer.
    """
    references = [last_integer(answer) for answer in _as_list(answers)]
    if None in references:
        raise ValueError(f"no integer in the answer {_as_list(answers)[references.index(None)]!r}")
    return last_integer(prediction) in references


def first_grid(text: str) -> tuple[tuple[int, ...], ...] | None:
    """The first grid of a text: lines with the same number of digits, separated by spaces, commas
    or brackets (ARC, Chollet 2019, arXiv 1911.01547). None if there is none, or its rows differ in
    length.
    """
    rows: list[tuple[int, ...]] = []
    for line in re.sub(r"\]\s*,?\s*\[", "\n", text).splitlines():
        if re.fullmatch(r"[\s\[\],\d]*\d[\s\[\],]*", line):
            rows.append(tuple(map(int, re.findall(r"\d", line))))
        elif rows:
            break
    return tuple(rows) if rows and len({*map(len, rows)}) == 1 else None


def is_grid_right(prediction: str, answers: str | Sequence[str]) -> bool:
    """Whether the first grid of the prediction equals that of an accepted answer in every cell.

    Raises:
      ValueError: an answer has no grid.
    """
    references = [first_grid(answer) for answer in _as_list(answers)]
    if None in references:
        raise ValueError(f"no grid in the answer {_as_list(answers)[references.index(None)]!r}")
    return first_grid(prediction) in references


def perplexity(sum_nll: float, tokens: float) -> float:
    """exp(sum_nll / tokens), infinite where that overflows.

    Args:
      sum_nll: negative log-likelihood in nats, summed over all scored tokens.
      tokens: number of scored tokens.

    Raises:
      ValueError: if no token was scored.
    """
    if tokens <= 0:
        raise ValueError(f"tokens={tokens}; perplexity needs at least one scored token")
    try:
        return math.exp(float(sum_nll) / float(tokens))
    except OverflowError:
        return math.inf
