"""The KV cache: level 0 of the memory, the context, as a pytree that is made, grown and picked
from."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import constrain_tree

_BATCH = {"key": -4, "value": -4, "segment_ids": -2}  # the axis of the rows


def init_cache(cfg: DecoderConfig, batch: int, capacity: int):
    """An empty KV cache: the `cache` collection for `batch` rows of at most `capacity` tokens."""
    shape = (batch, cfg.kv_heads, cfg.head_dim, capacity)

    def layer(stack=()):
        return {
            "attention": {
                "key": jnp.zeros(stack + shape, cfg.dtype),
                "value": jnp.zeros(stack + (*shape[:2], capacity, cfg.head_dim), cfg.dtype),
            }
        }

    stacked = {name: layer((len(layers),)) for name, layers in cfg.stacks.items()}
    unrolled = {f"layer_{i}": layer() for i in range(cfg.layers)}
    return {
        "index": jnp.zeros((), jnp.int32),
        "segment_ids": jnp.zeros((batch, capacity), jnp.int32),
        **(stacked if cfg.scan_layers else unrolled),
    }


def grow(cache, more: int, repeats: int = 1):
    """A cache with room for `more` tokens and each row repeated, members of a group next to each
    other."""

    def widen(path, x):
        name = path[-1].key
        if name == "index":
            return x
        axis = {"key": -1, "value": -2, "segment_ids": -1}[name] % x.ndim
        batch = _BATCH[name] % x.ndim
        x = jnp.pad(x, [(0, more if a == axis else 0) for a in range(x.ndim)])
        return jnp.repeat(x, repeats, axis=batch)

    return jax.tree_util.tree_map_with_path(widen, cache)


def take_rows(cache, index: Sequence[int]):
    """The context rows of some documents, in any order and as often as asked."""
    return _taken(cache, np.asarray(index))


@jax.jit
def _taken(cache, index):
    def take(path, x):
        if path[-1].key == "index":
            return x
        batch = _BATCH[path[-1].key] % x.ndim
        return x[(slice(None),) * batch + (index,)]

    return constrain_tree(jax.tree_util.tree_map_with_path(take, cache), "cache")
