"""Scores of short answers (SQuAD exact match and F1, containment, integers, grids) and perplexity.

Exact match and F1 follow the SQuAD v1.1 evaluation (Rajpurkar et al. 2016, arXiv 1606.05250).
"""

import collections
import math
import re
import string
from collections.abc import Sequence

from sleep_jax.rewards.numerals import normalize_numbers

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


def exact_match(prediction: str, answers: str | Sequence[str]) -> float:
    """1.0 if the prediction equals any accepted answer after SQuAD normalisation, else 0.0."""
    normalized = normalize_answer(prediction)
    return float(any(normalized == normalize_answer(answer) for answer in _list_of(answers)))


def _f1(prediction: list[str], answer: list[str]) -> float:
    if not prediction or not answer:
        return float(prediction == answer)
    common = sum((collections.Counter(prediction) & collections.Counter(answer)).values())
    return 2.0 * common / (len(prediction) + len(answer))


def f1(prediction: str, answers: str | Sequence[str]) -> float:
    """Best bag-of-words F1 against any accepted answer, in [0, 1]; two empty texts give 1.0."""
    words = normalize_answer(prediction).split()
    return max(_f1(words, normalize_answer(answer).split()) for answer in _list_of(answers))


def answer_words(text: str) -> list[str]:
    """SQuAD normalisation that keeps what a number means and splits compounds."""
    text = normalize_numbers(text)
    # Outside string.punctuation, so they survive: 3.5 is not 35, and -5 is not 5.
    text = re.sub(r"(?<=\d)\.(?=\d)", "·", text)
    text = re.sub(r"(?<!\w)-(?=\d)", "−", text)
    text = re.sub(r"(?<=\w)[-–—/](?=\w)", " ", text)
    return normalize_answer(text.translate(str.maketrans("", "", "“”‘’…"))).split()


def contains_answer(prediction: str, answers: str | Sequence[str]) -> bool:
    """Whether an accepted answer occurs in the prediction as a run of whole words.

    Both sides are normalised as for SQuAD, with numbers in digits ("seven" = "7", "1,250" =
    "1250"), so a longer reply that states the answer counts. An answer of articles and punctuation
    alone never occurs. It does not read: "not Paris" contains "Paris".
    """
    words = answer_words(prediction)
    for answer in _list_of(answers):
        wanted = answer_words(answer)
        starts = range(len(words) - len(wanted) + 1)
        if wanted and any(words[i : i + len(wanted)] == wanted for i in starts):
            return True
    return False


_INTEGER = re.compile(r"(?<![\w.])[-−]?\d+(?!\d|\.\d)")


def last_integer(text: str) -> int | None:
    """The last integer of a text, with numbers in words ("seven") and thousands ("1,250") read;
    None: there is none. The 5 of 3.5 is none."""
    found = _INTEGER.findall(normalize_numbers(text))
    return int(found[-1].replace("−", "-")) if found else None


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
