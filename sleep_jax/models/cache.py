"""The `cache` collection: level 0 of the memory, the context, as a pytree that is made, grown and
picked from, whatever the mixer keeps in it.

It holds the mixer's progress and its state of every stack of layers, or of every layer where these
are unrolled: {progress..., "layers": {MIXER: {state...}}}.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.mixer import CAPACITY, ROWS, get_mixer
from sleep_jax.models.sharding import constrain_tree


def init_cache(cfg: DecoderConfig, batch: int, capacity: int):
    """An empty cache of `batch` rows with room for `capacity` tokens."""
    mixer = get_mixer(cfg.mixer)

    def layer(*stack):
        return {cfg.mixer: mixer.init_state(cfg, batch, capacity, stack)}

    if cfg.scan_layers:
        layers = {name: layer(len(layers)) for name, layers in cfg.stacks.items()}
    else:
        layers = {f"layer_{i}": layer() for i in range(cfg.layers)}
    return {**mixer.init_progress(cfg, batch, capacity), **layers}


def grow(cfg: DecoderConfig, cache, more: int, repeats: int = 1):
    """A cache with room for `more` tokens and each row repeated, members of a group next to each
    other.
    """

    def widen(x, rows, capacity):
        x = jnp.pad(x, [(0, more if axis == capacity else 0) for axis in range(x.ndim)])
        return jnp.repeat(x, repeats, axis=rows)

    return _map_arrays(cfg.mixer, widen, cache)


def append(cfg: DecoderConfig, cache, appended):
    """A cache with what a call of one token a row returned as `appended` (`models/mixer.py`)."""
    axes, index = get_mixer(cfg.mixer).state_axes, cache["index"]

    def put(path, new):
        old = functools.reduce(lambda tree, entry: tree[entry.key], path, cache)
        if (name := path[-1].key) not in axes:
            return new  # of the progress
        axis = old.ndim - len(axes[name]) + axes[name].index(CAPACITY)
        return jax.lax.dynamic_update_slice_in_dim(old, new, index, axis)

    return jax.tree_util.tree_map_with_path(put, appended)


def row_bytes(cfg: DecoderConfig, cache) -> int:
    """Bytes that a row of a cache, abstract or not, takes in all layers."""
    axes, size = {**get_mixer(cfg.mixer).progress_axes, **get_mixer(cfg.mixer).state_axes}, 0
    for path, x in jax.tree_util.tree_leaves_with_path(cache):
        names = axes[path[-1].key]
        if ROWS in names:
            rows = x.shape[x.ndim - len(names) + names.index(ROWS)]
            size += x.size * x.dtype.itemsize // rows
    return size


def take_rows(cfg: DecoderConfig, cache, index: Sequence[int]):
    """The rows of a cache at these indices, in any order and as often as they occur."""
    return _take_rows(cfg.mixer, cache, np.asarray(index))


@functools.partial(jax.jit, static_argnames="mixer")
def _take_rows(mixer: str, cache, index):
    def take(x, rows, _):
        return x[(slice(None),) * rows + (index,)]

    return constrain_tree(_map_arrays(mixer, take, cache), "cache")


def _map_arrays(mixer: str, function, cache):
    """`function(x, rows, capacity)` of every array with rows: the indices of the axis of its rows
    and of its capacity, None where it has none. Arrays without rows stay as they are.
    """
    axes = {**get_mixer(mixer).progress_axes, **get_mixer(mixer).state_axes}

    def apply(path, x):
        names = axes[path[-1].key]
        if ROWS not in names:
            return x
        first = x.ndim - len(names)  # after the stack of layers
        capacity = first + names.index(CAPACITY) if CAPACITY in names else None
        return function(x, first + names.index(ROWS), capacity)

    return jax.tree_util.tree_map_with_path(apply, cache)
