"""Scores of short answers (exact match, F1, containment, integers, grids) and perplexity.

What two answers have in common, `data.answers` says, in any script. Figures that are compared with
published ones need `squad_exact_match` and `squad_f1`: those of the SQuAD v1.1 evaluation
(Rajpurkar et al. 2016, arXiv 1606.05250), made for English. An answer of which a normalisation
leaves nothing ("+") is compared as it is.
"""

import collections
import functools
import math
import re
import string
from collections.abc import Callable, Sequence

from sleep_jax.data.answers import answer_words
from sleep_jax.data.numerals import normalize_numbers

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case; ASCII punctuation, the articles a, an, the, and extra white space removed."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _list_of(answers: str | Sequence[str]) -> Sequence[str]:
    answers = [answers] if isinstance(answers, str) else answers
    if not answers:
        raise ValueError("answers is empty; give at least one accepted answer")
    return answers


_Pair = tuple[list[str], list[str]]  # the words of a prediction and of an answer


def _words(prediction: str, answer: str, split: Callable[[str], list[str]]) -> _Pair:
    """Both as `split` has them; in raw words where that leaves nothing of the answer."""
    wanted = split(answer)
    return (split(prediction), wanted) if wanted else (_raw(prediction), _raw(answer))


def _raw(text: str) -> list[str]:
    return text.lower().split()


def _squad(text: str) -> list[str]:
    return normalize_answer(text).split()


def _views(answer: str) -> list[bool]:
    """`is_verbatim` of the ways in which an answer is compared: in the second one zeros count, so
    that "3.10" is "Release 3.10"."""
    return [False, True] if "." in answer else [False]


def _pairs(prediction: str, answers: str | Sequence[str]) -> list[_Pair]:
    """The words of both by `answer_words`, against every accepted answer in every view."""
    return [
        _words(prediction, answer, functools.partial(answer_words, is_verbatim=is_verbatim))
        for answer in _list_of(answers)
        for is_verbatim in _views(answer)
    ]


def _squad_pairs(prediction: str, answers: str | Sequence[str]) -> list[_Pair]:
    return [_words(prediction, answer, _squad) for answer in _list_of(answers)]


def _is_match(pairs: Sequence[_Pair]) -> float:
    return float(any(words and words == wanted for words, wanted in pairs))


def _best_f1(pairs: Sequence[_Pair]) -> float:
    return max(_f1(words, wanted) for words, wanted in pairs)


def _f1(prediction: list[str], answer: list[str]) -> float:
    common = sum((collections.Counter(prediction) & collections.Counter(answer)).values())
    return 2.0 * common / (len(prediction) + len(answer)) if common else 0.0


def exact_match(prediction: str, answers: str | Sequence[str]) -> float:
    """1.0 if the prediction says the words of an accepted answer and no more (`answer_words`), else
    0.0; an empty prediction equals none."""
    return _is_match(_pairs(prediction, answers))


def f1(prediction: str, answers: str | Sequence[str]) -> float:
    """Best bag-of-words F1 against any accepted answer, in [0, 1], of `answer_words`; 0 where no
    word is shared, so also of two empty texts."""
    return _best_f1(_pairs(prediction, answers))


def squad_exact_match(prediction: str, answers: str | Sequence[str]) -> float:
    """1.0 if the prediction equals any accepted answer after SQuAD's normalisation, else 0.0; an
    empty prediction equals none."""
    return _is_match(_squad_pairs(prediction, answers))


def squad_f1(prediction: str, answers: str | Sequence[str]) -> float:
    """Best bag-of-words F1 against any accepted answer after SQuAD's normalisation, in [0, 1]; 0
    where no word is shared, so also of two empty texts."""
    return _best_f1(_squad_pairs(prediction, answers))


def contains_answer(prediction: str, answers: str | Sequence[str]) -> bool:
    """Whether an accepted answer occurs in the prediction as a run of whole words.

    Both sides are normalised by `answer_words`: numbers in digits ("seven" = "7", "1,250" =
    "1250"), units by name ("53m" = "53 metres"), any quotes and hyphens; so a longer reply that
    states the answer counts. An answer of articles or marks alone has to be the whole reply. It
    does not read: "not Paris" contains "Paris".
    """
    return any(
        _occurs(answer, prediction, is_verbatim)
        for answer in _list_of(answers)
        for is_verbatim in _views(answer)
    )


def _occurs(answer: str, prediction: str, is_verbatim: bool) -> bool:
    wanted = answer_words(answer, is_verbatim=is_verbatim)
    if not wanted:
        return bool(answer.strip()) and answer.strip() == prediction.strip()
    words = answer_words(prediction, is_verbatim=is_verbatim)
    return any(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted) + 1))


_INTEGER = re.compile(r"(?<![\w.])[-−]?\d++(?!\.\d)")
_LONGEST = 1000  # digits; Python reads no more than 4,300


def last_integer(text: str) -> int | None:
    """The last integer of a text, with numbers in words ("seven") and thousands ("1,250") read;
    None: there is none, or it has more than 1,000 digits. The 5 of 3.5 is none."""
    found = _INTEGER.findall(normalize_numbers(text))
    return int(found[-1].replace("−", "-")) if found and len(found[-1]) <= _LONGEST else None


def is_integer_right(prediction: str, answers: str | Sequence[str]) -> bool:
    """Whether the last integer of the prediction is that of an accepted answer.

    Raises:
      ValueError: an answer has no integer.
    """
    wanted = [last_integer(answer) for answer in _list_of(answers)]
    if None in wanted:
        raise ValueError(
            f"no integer in the answer {list(_list_of(answers))[wanted.index(None)]!r}"
        )
    return last_integer(prediction) in wanted


def first_grid(text: str) -> tuple[tuple[int, ...], ...] | None:
    """The first grid of a text: lines of as many digits each, which spaces, commas or brackets may
    separate (ARC, Chollet 2019, arXiv 1911.01547). None: there is none, or its rows differ."""
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
      ValueError: an answer is no grid.
    """
    wanted = [first_grid(answer) for answer in _list_of(answers)]
    if None in wanted:
        raise ValueError(f"no grid in the answer {list(_list_of(answers))[wanted.index(None)]!r}")
    return first_grid(prediction) in wanted


def perplexity(sum_nll: float, tokens: float) -> float:
    """exp(sum_nll / tokens), infinite where that overflows.

    Args:
      sum_nll: negative log-likelihood in nats, summed over all scored tokens.
      tokens: how many tokens were scored.

    Raises:
      ValueError: if no token was scored.
    """
    if tokens <= 0:
        raise ValueError(f"tokens={tokens}; perplexity needs at least one scored token")
    try:
        return math.exp(float(sum_nll) / float(tokens))
    except OverflowError:
        return math.inf
