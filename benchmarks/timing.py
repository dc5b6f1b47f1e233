"""Timing in turns, so that other load on the machine affects all contestants alike."""

import json
import statistics
import time
from collections.abc import Callable, Mapping

import jax


def interleaved(
    contestants: Mapping[str, Callable[[], object]], rounds: int = 7
) -> dict[str, list[float]]:
    """Seconds of every call, in turns; the first call of each (compilation) is not counted.

    Args:
      contestants: functions by name; their results are waited for.
      rounds: calls of each.
    """
    for run in contestants.values():
        jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def report(name: str, seconds: Mapping[str, list[float]], ours: str, peer: str, **setting) -> dict:
    """Prints one JSON line: medians, their ratio and its range over the rounds."""
    ratios = [a / b for a, b in zip(seconds[ours], seconds[peer])]
    line = {
        "name": name,
        "ours": round(statistics.median(seconds[ours]), 4),
        "peer": round(statistics.median(seconds[peer]), 4),
        "ratio": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
        "setting": {"ours": ours, "peer": peer, "device": jax.devices()[0].device_kind, **setting},
    }
    print(json.dumps(line), flush=True)
    return line
