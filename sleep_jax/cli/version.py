"""The version of the program."""

import importlib.metadata


def version() -> str:
    """The versions of sleep_jax and JAX, as `--version` prints them."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("sleep_jax", "jax"))
