"""The KV cache: level 0 of the memory, the context, as a pytree that is made, grown and picked
from."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.models.config import DecoderConfig


def init_cache(cfg: DecoderConfig, batch: int, capacity: int):
    """An empty KV cache: the `cache` collection for `batch` rows of at most `capacity` tokens."""
    shape = (batch, cfg.kv_heads, cfg.head_dim, capacity)
    stack = (cfg.layers,) if cfg.scan_layers else ()

    def layer():
        return {
            "attention": {
                "key": jnp.zeros(stack + shape, cfg.dtype),
                "value": jnp.zeros(stack + (*shape[:2], capacity, cfg.head_dim), cfg.dtype),
            }
        }

    names = ["layers"] if cfg.scan_layers else [f"layer_{i}" for i in range(cfg.layers)]
    return {
        "index": jnp.zeros((), jnp.int32),
        "segment_ids": jnp.zeros((batch, capacity), jnp.int32),
        **{name: layer() for name in names},
    }


def grow(cache, more: int, repeats: int = 1):
    """A cache with room for `more` tokens and each row repeated, members of a group next to each
    other."""

    def widen(path, x):
        name = path[-1].key
        if name == "index":
            return x
        axis = {"key": -1, "value": -2, "segment_ids": -1}[name] % x.ndim
        batch = {"key": -4, "value": -4, "segment_ids": -2}[name] % x.ndim
        x = jnp.pad(x, [(0, more if a == axis else 0) for a in range(x.ndim)])
        return jnp.repeat(x, repeats, axis=batch)

    return jax.tree_util.tree_map_with_path(widen, cache)


def take_rows(cache, index: Sequence[int]):
    """The context rows of some documents, in any order and as often as asked."""
    index = np.asarray(index)

    def take(path, x):
        if path[-1].key == "index":
            return x
        return x[:, index] if path[0].key == "layers" else x[index]

    return jax.tree_util.tree_map_with_path(take, cache)
