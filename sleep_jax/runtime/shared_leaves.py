"""What a checkpoint stores once: states of a memory that mostly equal another one.

    current                      is stored whole
    before_sleep, before_dreams  the leaves that differ from it; of an expert bank, whose axis 1 is
                                 the slot, the slots that differ

What is equal is equal to the bit. Which slots are stored of a leaf is on record by its name
(`Shared`); all others are those of the leaf of `current`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

REFERENCE = "current"  # the entry of a state that the others are compared with
BANK = "experts"  # of the leaves below it, axis 1 is the slot

# The slots that are stored of each leaf that is not stored whole, by its name; [] where none is.
Shared = dict[str, list[int]]


def reference_of(name: str) -> str:
    """The name of the leaf that a leaf shares something with."""
    return f"{REFERENCE}.{name.partition('.')[2]}"


def is_bank(name: str) -> bool:
    """Whether a leaf is of an expert bank."""
    return BANK in name.split(".")


def without_shared(state: Any) -> tuple[Any, Shared]:
    """A state without what it has twice.

    Args:
      state: pytree of arrays, by name of the entry at the top.

    Returns:
      (tree, shared): nested dicts and lists, or the state itself where no entry is `REFERENCE`.
    """
    if not (isinstance(state, dict) and REFERENCE in state):
        return state, {}
    tree = ocp.tree.serialize_tree(state, keep_empty_nodes=True)
    reference, shared, out = tree[REFERENCE], {}, {}
    for entry, part in tree.items():
        rest = part if entry == REFERENCE else _difference(entry, part, reference, shared)
        if rest is not None:
            out[entry] = rest
    return out, shared


def _difference(name: str, part: Any, reference: Any, shared: Shared) -> Any:
    """What a part of a state has that its reference has not; None where that is nothing."""
    if isinstance(part, dict) and part and isinstance(reference, dict):
        kept = {
            key: _difference(f"{name}.{key}", x, reference[key], shared) if key in reference else x
            for key, x in part.items()
        }
        return {key: x for key, x in kept.items() if x is not None or part[key] is None} or None
    is_pair = all(isinstance(x, jax.Array | np.ndarray) and x.ndim for x in (part, reference))
    if not is_pair or (part.shape, part.dtype) != (reference.shape, reference.dtype):
        return part
    count = part.shape[1] if is_bank(name) else 1
    differs = [] if part is reference else _differing(part, reference, is_bank(name))
    if len(differs) == count:
        return part
    shared[name] = differs
    return _slots(part, differs) if differs else None


def _differing(x: jax.Array, y: jax.Array, is_bank: bool) -> list[int]:
    """The slots of two banks of one shape that differ in a bit; of other arrays [0] if they do."""
    # A local import: what inspects a checkpoint needs no models.
    from sleep_jax.models.sharding import to_host

    differs = np.atleast_1d(to_host(_differs(x, y, is_bank)))
    return np.flatnonzero(differs).tolist()


@jax.jit(static_argnames=("is_bank",))
def _differs(x, y, is_bank: bool):
    """Whether two arrays differ, bool [], or two banks in each slot, bool [slots]."""
    if jnp.issubdtype(x.dtype, jnp.floating):  # -0 is not 0, and NaN is itself
        bits = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
        x, y = (jax.lax.bitcast_convert_type(a, bits) for a in (x, y))
    return jnp.any(x != y, axis=(0, *range(2, x.ndim)) if is_bank else None)


def _slots(bank: jax.Array | np.ndarray, slots: list[int]) -> jax.Array | np.ndarray:
    """Some slots of a bank, sharded as it is."""
    if isinstance(bank, np.ndarray):
        return bank[:, slots]
    take = jax.jit(lambda x, i: x[:, i], out_shardings=bank.sharding)
    return take(bank, np.array(slots))


def stored_target(target: Any, shared: Shared) -> Any:
    """What a checkpoint has of a state.

    Args:
      target: pytree of `jax.ShapeDtypeStruct`.
      shared: of the checkpoint.
    """

    def of_leaf(path, x):
        slots = shared.get(jax.tree_util.keystr(path, simple=True, separator="."))
        if not slots:
            return x
        return jax.ShapeDtypeStruct(
            (x.shape[0], len(slots), *x.shape[2:]), x.dtype, sharding=x.sharding
        )

    return jax.tree_util.tree_map_with_path(of_leaf, target)


def completed(stored: dict[str, Any], shared: Shared) -> dict[str, Any]:
    """The leaves of a state by name; equal ones are one array.

    Args:
      stored: those that a checkpoint has.
      shared: of the checkpoint.
    """
    out = dict(stored)
    for name, slots in shared.items():
        reference = stored[reference_of(name)]
        out[name] = _with_slots(reference, stored[name], slots) if slots else reference
    return out


def _with_slots(bank, stored, slots: list[int]) -> jax.Array | np.ndarray:
    """A bank with some slots replaced by others, sharded as it is."""
    if isinstance(bank, np.ndarray):
        bank = bank.copy()
        bank[:, slots] = stored
        return bank
    put = jax.jit(lambda x, y, i: x.at[:, i].set(y), out_shardings=bank.sharding)
    return put(bank, stored, np.array(slots))
