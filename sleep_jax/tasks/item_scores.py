"""What becomes of a reply: the figures of one item, by name of the metric."""

from collections.abc import Mapping, Sequence
from typing import Any

from sleep_jax.evals.instructions import passes
from sleep_jax.evals.metrics import contains_answer

Item = Mapping[str, Any]


def instruction(item: Item, results: Sequence[str]) -> dict[str, float]:
    """`followed`: all checks are passed; `checks`: the share that is."""
    passed = [passes(results[0], check) for check in item["checks"]]
    return {"followed": float(all(passed)), "checks": sum(passed) / len(passed)}


def answer(item: Item, results: Sequence[str]) -> dict[str, float]:
    """`right`: the reply contains one of the answers (`contains_answer`)."""
    return {"right": float(contains_answer(results[0], item["answers"]))}


def likelihood(item: Item, results: Sequence[tuple[float, bool]]) -> dict[str, tuple[float, int]]:
    """`byte_perplexity` of the answer."""
    [(log_likelihood, _)] = results
    return {"byte_perplexity": (log_likelihood, len(item["answer"].encode()))}
