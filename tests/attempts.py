"""What two attempts at one run have in common."""

from collections.abc import Mapping
from typing import Any

from sleep_jax.runtime.metrics import MEASURED


def reproducible(line: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded line without what differs from attempt to attempt."""
    return {k: v for k, v in line.items() if k != "time" and not k.startswith(MEASURED)}
