"""The continuum memory in a checkpoint: slots in use, their norms, and changes between phases."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from sleep_jax.inspect.checkpoint import Checkpoint, Leaf
from sleep_jax.memory.slots import level_of

STATES = ("current", "before_sleep", "before_dreams")


@dataclasses.dataclass(frozen=True)
class LevelSlots:
    """One level of the memory.

    Attributes:
      level: its number, from 1.
      active: bool [layers, S]: the slots in use.
      norms: {leaf: float [layers, S]}, the Frobenius norm of every slot in use, NaN elsewhere. A
        slot whose `down` is 0 changes no output.
      wake: {leaf: float [layers]}, the norm of the wake weights; {} at the slowest level.
    """

    level: int
    active: np.ndarray
    norms: dict[str, np.ndarray]
    wake: dict[str, np.ndarray]

    @property
    def indices(self) -> list[int]:
        """The slots in use."""
        return np.flatnonzero(self.active.any(axis=0)).tolist()

    @property
    def used(self) -> int:
        """Number of slots in use."""
        return len(self.indices)

    @property
    def capacity(self) -> int:
        """Number of slots."""
        return self.active.shape[1]


@dataclasses.dataclass(frozen=True)
class Change:
    """The change of a leaf between two checkpoints.

    Attributes:
      name: of the leaf, e.g. `memory.layers.level_1.experts.down`.
      kind: `identical`, bit for bit; `changed`; `new` or `gone`; `reshaped`.
      entries: number of entries that differ.
      relative: ||after - before|| / ||before||, inf if all were zero before; None for masks, and
        if there is nothing to compare.
      slots: of an expert bank, the slots that changed.
    """

    name: str
    kind: str
    entries: int = 0
    relative: float | None = None
    slots: tuple[int, ...] = ()


def in_use(checkpoint: Checkpoint, state: str = "current") -> dict[int, tuple[int, int]]:
    """{level: (slots in use, slots)}; reads only the masks."""
    return {n: (x.used, x.capacity) for n, x in _levels(checkpoint, state).items()}


def slots(checkpoint: Checkpoint, state: str = "current") -> list[LevelSlots]:
    """The levels with the norms of the slots in use; unused slots are not read.

    Args:
      checkpoint: of a phase.
      state: `current`, `before_sleep` or `before_dreams`.
    """
    return [
        dataclasses.replace(
            level,
            norms=_slot_norms(checkpoint, f"{state}.memory.layers.level_{n}.experts", level),
            wake=_norms(checkpoint, f"{state}.memory.layers.level_{n}.wake"),
        )
        for n, level in _levels(checkpoint, state).items()
    ]


def changes(before: Checkpoint, after: Checkpoint, state: str = "current") -> list[Change]:
    """Every leaf of a memory state, compared bit by bit, one slot of one leaf at a time.

    Args:
      before, after: two checkpoints of a run.
      state: as for `slots`; `current` has the wake state, too, where levels learn by day.
    """
    old, new = (
        {name.removeprefix(f"{state}."): leaf for name, leaf in x.leaves(state).items()}
        for x in (before, after)
    )
    changed = []
    for name in sorted(old | new):
        if name not in old or name not in new:
            changed.append(Change(name, "new" if name in new else "gone"))
        elif (old[name].shape, old[name].dtype) != (new[name].shape, new[name].dtype):
            changed.append(Change(name, "reshaped"))
        else:
            changed.append(_change(name, before, after, new[name]))
    return changed


def _change(name: str, before: Checkpoint, after: Checkpoint, leaf: Leaf) -> Change:
    entries, square_before, square_change, slots = 0, 0.0, 0.0, []
    for slot in range(leaf.slots) if leaf.slots else (None,):
        a, b = before.read(leaf.name, slot), after.read(leaf.name, slot)
        numeric = a.dtype != bool
        if numeric:
            square_before += _square(a)
        if differing := _differing(a, b):
            entries += differing
            slots += [] if slot is None else [slot]
            square_change += (
                _square(b.astype(np.float32) - a.astype(np.float32)) if numeric else 0.0
            )
    if not entries:
        return Change(name, "identical")
    relative = None
    if leaf.dtype != "bool":
        relative = float(np.sqrt(square_change / square_before)) if square_before else float("inf")
    return Change(name, "changed", entries, relative, tuple(slots))


def _differing(a: np.ndarray, b: np.ndarray) -> int:
    """Number of entries whose bits differ: NaN equals itself, 0 differs from -0."""
    if not a.size:
        return 0
    bits = [np.ascontiguousarray(x).view(np.uint8).reshape(-1, x.dtype.itemsize) for x in (a, b)]
    return 0 if np.array_equal(*bits) else int((bits[0] != bits[1]).any(axis=1).sum())


def _square(x: np.ndarray) -> float:
    flat = x.astype(np.float32, copy=False).ravel()
    return float(np.sum(flat * flat, dtype=np.float64))


def _levels(checkpoint: Checkpoint, state: str) -> dict[int, LevelSlots]:
    """The levels without norms."""
    if state not in STATES:
        raise ValueError(f"state={state!r}; choose from {', '.join(STATES)}")
    root = f"{state}.slots.layers"
    return dict(sorted(_masks(checkpoint, root)))


def _masks(checkpoint: Checkpoint, root: str) -> Iterator[tuple[int, LevelSlots]]:
    leaves = checkpoint.leaves(root)
    for level in {name.removeprefix(f"{root}.").split(".")[0] for name in leaves}:
        number, mask = level_of(level), f"{root}.{level}.active"
        if mask in leaves:
            active = checkpoint.read(mask)
        else:
            active = np.zeros((len(checkpoint.read(f"{root}.{level}.carries")), 0), bool)
        yield number, LevelSlots(number, active, {}, {})


def _slot_norms(checkpoint: Checkpoint, bank: str, level: LevelSlots) -> dict[str, np.ndarray]:
    if not level.used:
        return {}
    norms = {}
    for name in checkpoint.leaves(bank):
        by_slot = np.full(level.active.shape, np.nan, np.float32)
        for slot in level.indices:
            by_slot[:, slot] = _by_layer(checkpoint.read(name, slot))
        norms[name.rpartition(".")[2]] = np.where(level.active, by_slot, np.nan)
    return norms


def _norms(checkpoint: Checkpoint, under: str) -> dict[str, np.ndarray]:
    try:
        leaves = checkpoint.leaves(under)
    except KeyError:
        return {}
    return {name.rpartition(".")[2]: _by_layer(checkpoint.read(name)) for name in leaves}


def _by_layer(x: np.ndarray) -> np.ndarray:
    """[layers, ...] -> the norm of each [layers]."""
    flat = x.astype(np.float32, copy=False).reshape(len(x), -1)
    return np.sqrt(np.einsum("lk,lk->l", flat, flat))
