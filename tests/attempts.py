"""Comparing two attempts at one run."""

from collections.abc import Mapping
from typing import Any

from sleep_jax.runtime.metrics import MEASURED


def reproducible(line: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded line without the values that differ between attempts."""
    return {k: v for k, v in line.items() if k != "time" and not k.startswith(MEASURED)}
