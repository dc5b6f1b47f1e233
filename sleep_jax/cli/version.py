"""Which version this is."""

import importlib.metadata


def version() -> str:
    """What `--version` prints."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("sleep_jax", "jax"))
