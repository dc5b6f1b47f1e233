"""One checkpoint, read lazily and without a device.

Orbax stores every leaf of a state as a Zarr array in an OCDBT database, expert banks in one chunk a
slot (`runtime.checkpoints`), and what it would hold twice but once (`runtime.shared_leaves`).
TensorStore opens such an array without reading it and reads single
slices, which Orbax cannot; it starts no JAX backend, so a run may use the accelerator meanwhile.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorstore as ts

from sleep_jax.addresses import is_remote, store_error
from sleep_jax.fields import Fields, read_json, read_object
from sleep_jax.report import run_record
from sleep_jax.runtime.checkpoints import damage
from sleep_jax.runtime.shared_leaves import is_bank, reference_of


@dataclasses.dataclass(frozen=True)
class Leaf:
    """Description of a leaf that has not been read.

    Attributes:
      name: its path, e.g. `current.memory.layers.level_1.experts.down`.
      shape, dtype: of the array.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def slots(self) -> int:
        """Number of slots of an expert bank; 0 for other leaves."""
        return self.shape[1] if is_bank(self.name) else 0


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of one phase.

    Attributes:
      folder: `workdir/checkpoints/<index>`.
    """

    folder: pathlib.Path

    @property
    def index(self) -> int:
        """Index of the phase in the run, from 0."""
        return int(self.folder.name)

    @property
    def phase(self) -> str:
        """Name of the phase, e.g. `consolidate-2`."""
        return self._facts["phase"]

    @property
    def record(self) -> dict[str, Any]:
        """The record: `config`, and `run` as in `phases.run_state.RunState`."""
        return self._facts["record"]

    def problem(self, *, is_thorough: bool = False) -> str | None:
        """What is wrong with it, as text; None if it is valid.

        Args:
          is_thorough: compare the contents of all files with their digests.
        """
        return damage(self.folder, is_thorough=is_thorough)

    def leaves(self, under: str = "") -> dict[str, Leaf]:
        """The leaves at or below a path, by name, by default all; their arrays are not read.

        Raises:
          KeyError: there is nothing of that name; lists the existing names.
        """
        return {name: _leaf(name, self._open(name)) for name in self._named(under)}

    def read(self, name: str, slot: int | None = None) -> np.ndarray:
        """One leaf, or one slot of it (axis 1).

        Raises:
          KeyError: there is no such leaf; lists the existing ones.
          IndexError: it has no such slot.
          OSError: its file is damaged; says what to do.
        """
        if self._named(name) != [name]:
            raise KeyError(f"{name} in {self.folder} is no leaf; `restore` reads all below it")
        array = self._open(name)
        if slot is not None:
            if not 0 <= slot < (capacity := _leaf(name, array).slots):
                raise IndexError(f"slot={slot}: {name} has {capacity}, counted from 0")
            array = array[:, slot]
        with _explaining_damage(self.folder):
            return np.asarray(array.read().result())

    def restore(self, under: str, slot: int | None = None) -> dict[str, Any]:
        """The leaves below a path as nested dicts, or one slot of an expert bank.

        Args:
          under: e.g. `current.memory.layers.level_1.experts`.
          slot: of an expert bank; its leaves come without the slot axis.

        Raises:
          KeyError, IndexError, OSError: as `leaves` and `read`.
        """
        tree: dict[str, Any] = {}
        for name in self.leaves(under):
            *path, last = name.removeprefix(under).removeprefix(".").split(".")
            node = tree
            for key in path:
                node = node.setdefault(key, {})
            node[last or name.rpartition(".")[2]] = self.read(name, slot)
        return tree

    @property
    def _record_path(self) -> pathlib.Path:
        return self.folder / "record" / "metadata"

    @functools.cached_property
    def _facts(self) -> dict[str, Any]:
        with _explaining_damage(self.folder):
            return run_record.checked(read_json(self._record_path), str(self._record_path))

    @functools.cached_property
    def _state(self) -> Fields:
        """Orbax's metadata of the tree and layout of the state."""
        with _explaining_damage(self.folder):
            return read_object(self.folder / "state" / "_METADATA")

    @functools.cached_property
    def _names(self) -> list[str]:
        with _explaining_damage(self.folder):
            leaves = self._state.section("tree_metadata")
            stored = [
                ".".join(map(_key, leaf.objects("key_metadata")))
                for leaf in map(leaves.section, leaves)
                # A None has no array.
                if not leaf.section("value_metadata").flag("skip_deserialize")
            ]
        return list(dict.fromkeys([*stored, *self._shared]))

    def _named(self, under: str) -> list[str]:
        """The leaf names at or below a path; raises KeyError if there are none."""
        names = [x for x in self._names if not under or f"{x}.".startswith(f"{under}.")]
        if not names:
            existing = sorted({".".join(x.split(".")[: under.count(".") + 1]) for x in self._names})
            raise KeyError(f"{self.folder} holds no {under!r}; there is {', '.join(existing)}")
        return names

    @functools.cached_property
    def _context(self) -> ts.Context:
        """Shared by all arrays, so that the index of the database is read once."""
        return ts.Context()

    @functools.cached_property
    def _shared(self) -> dict[str, list[int]]:
        """The slots that are stored of each leaf that is not stored whole; older checkpoints have
        none.

        Raises:
          OSError: they are not as they should be.
        """
        with _explaining_damage(self.folder):
            read = read_object(self._record_path).section("shared", None)
            return {name: _slot_numbers(read, name) for name in read}

    def _open(self, name: str) -> ts.TensorStore:
        """The array of a leaf, not read yet."""
        if (slots := self._shared.get(name)) is None:
            return self._open_stored(name)
        whole = self._open_stored(reference_of(name))
        if not slots:
            return whole
        stored = self._open_stored(name)
        with _explaining_damage(self.folder):
            if len(slots) != stored.shape[1]:
                raise ValueError(f"{name} has {stored.shape[1]} of the slots {slots}")
            parts = [whole[:, i] for i in range(whole.shape[1])]
            for n, slot in enumerate(slots):
                parts[slot] = stored[:, n]
            return ts.stack(parts, axis=1)

    def _open_stored(self, name: str) -> ts.TensorStore:
        base = os.fspath(self.folder / "state")
        base = base if is_remote(base) else pathlib.Path(base).absolute().as_uri()
        spec = {
            "driver": "zarr3" if self._state.get("use_zarr3") else "zarr",
            "kvstore": {"driver": "ocdbt", "base": f"{base}/", "path": f"{name}/"},
        }
        with _explaining_damage(self.folder):
            return ts.open(spec, read=True, open=True, context=self._context).result()


def _slot_numbers(read: Fields, name: str) -> list[int]:
    """A list of slots, from 0."""
    numbers = read.listing(name)
    if not all(type(x) is int and x >= 0 for x in numbers):
        read.refuse(name, "a list of slots")
    return numbers


def _key(read: Fields) -> str:
    """One key of the path of a leaf: of a dict, or index of a list."""
    return str(read.whole("key")) if isinstance(read.get("key"), int) else read.text("key")


def _leaf(name: str, array: ts.TensorStore) -> Leaf:
    return Leaf(name, tuple(array.shape), array.dtype.name)


@contextlib.contextmanager
def _explaining_damage(folder: pathlib.Path) -> Iterator[None]:
    """Turns errors of reading a damaged file into one that says what to do."""
    try:
        yield
    except (OSError, ValueError, IndexError) as error:
        if plain := store_error(error, folder):
            raise plain from error
        message = str(error).split("\n")[0]
        raise OSError(
            f"checkpoint {folder} cannot be read ({message}); `verify` says which file is damaged, "
            "another --phase may be valid"
        ) from error
