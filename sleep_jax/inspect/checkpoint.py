"""One checkpoint, read without a device and no more of it than is asked for.

Orbax stores every leaf of a state as a Zarr array in an OCDBT database, the expert banks in one
chunk a slot (`runtime.checkpoints`). TensorStore opens such an array without reading it and reads
the slices that are asked for, which Orbax itself cannot do, and starts no JAX backend: a run may
hold the accelerator meanwhile.
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

from sleep_jax.addresses import fault, is_remote
from sleep_jax.fields import Fields, read_json, read_object
from sleep_jax.report import run_record
from sleep_jax.runtime.checkpoints import damage

BANK = "experts"  # below it, axis 1 of every leaf counts slots


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What is known of a leaf before it is read.

    Attributes:
      name: its path, e.g. `current.memory.layers.level_1.experts.down`.
      shape, dtype: of the array.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def slots(self) -> int:
        """How many slots it holds a part of; 0 where it is no leaf of an expert bank."""
        return self.shape[1] if BANK in self.name.split(".") else 0


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What one phase left.

    Attributes:
      folder: `workdir/checkpoints/<index>`.
    """

    folder: pathlib.Path

    @property
    def index(self) -> int:
        """Position of its phase in the run, from 0."""
        return int(self.folder.name)

    @property
    def phase(self) -> str:
        """Its phase, e.g. `consolidate-2`."""
        return self._facts["phase"]

    @property
    def record(self) -> dict[str, Any]:
        """The facts: `config` and `night`, as `phases.run_state.RunState` describes it."""
        return self._facts["record"]

    def problem(self, *, is_thorough: bool = False) -> str | None:
        """What is wrong with it, in words; None when nothing is.

        Args:
          is_thorough: compare the contents of all files with their digests, too.
        """
        return damage(self.folder, is_thorough=is_thorough)

    def leaves(self, under: str = "") -> dict[str, Leaf]:
        """The leaves at or below a path, by name; all of them by default. Reads none.

        Raises:
          KeyError: there is nothing of that name; says what there is.
        """
        return {name: _leaf(name, self._open(name)) for name in self._named(under)}

    def read(self, name: str, slot: int | None = None) -> np.ndarray:
        """One leaf, or its part of one slot (axis 1), and nothing else.

        Raises:
          KeyError: there is no such leaf; says what there is.
          IndexError: it has no such slot.
          OSError: its file is torn; says what to do.
        """
        if self._named(name) != [name]:
            raise KeyError(f"{name} in {self.folder} is no leaf; `restore` reads all below it")
        array = self._open(name)
        if slot is not None:
            if not 0 <= slot < (capacity := _leaf(name, array).slots):
                raise IndexError(f"slot={slot}: {name} has {capacity}, counted from 0")
            array = array[:, slot]
        with _in_words(self.folder):
            return np.asarray(array.read().result())

    def restore(self, under: str, slot: int | None = None) -> dict[str, Any]:
        """The leaves below a path as nested dicts, or one slot of an expert bank.

        Args:
          under: e.g. `current.memory.layers.level_1.experts`.
          slot: of a bank, which one; its leaves lose their slot axis.

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

    @functools.cached_property
    def _facts(self) -> dict[str, Any]:
        path = self.folder / "record" / "metadata"
        with _in_words(self.folder):
            return run_record.checked(read_json(path), str(path))

    @functools.cached_property
    def _state(self) -> Fields:
        """What Orbax notes of the state's tree and layout."""
        with _in_words(self.folder):
            return read_object(self.folder / "state" / "_METADATA")

    @functools.cached_property
    def _names(self) -> list[str]:
        with _in_words(self.folder):
            leaves = self._state.section("tree_metadata")
            return [
                ".".join(map(_key, leaf.objects("key_metadata")))
                for leaf in map(leaves.section, leaves)
                if not leaf.section("value_metadata").flag("skip_deserialize")  # None, no array
            ]

    def _named(self, under: str) -> list[str]:
        """The names at or below one; KeyError where there is none."""
        named = [x for x in self._names if not under or f"{x}.".startswith(f"{under}.")]
        if not named:
            there = sorted({".".join(x.split(".")[: under.count(".") + 1]) for x in self._names})
            raise KeyError(f"{self.folder} holds no {under!r}; there is {', '.join(there)}")
        return named

    @functools.cached_property
    def _context(self) -> ts.Context:
        """Shared by all arrays, so that the database's index is read once."""
        return ts.Context()

    def _open(self, name: str) -> ts.TensorStore:
        base = os.fspath(self.folder / "state")
        base = base if is_remote(base) else pathlib.Path(base).absolute().as_uri()
        spec = {
            "driver": "zarr3" if self._state.get("use_zarr3") else "zarr",
            "kvstore": {"driver": "ocdbt", "base": f"{base}/", "path": f"{name}/"},
        }
        with _in_words(self.folder):
            return ts.open(spec, read=True, open=True, context=self._context).result()


def _key(read: Fields) -> str:
    """A step of the path of a leaf: of a dict or of a list."""
    return str(read.whole("key")) if isinstance(read.get("key"), int) else read.text("key")


def _leaf(name: str, array: ts.TensorStore) -> Leaf:
    return Leaf(name, tuple(array.shape), array.dtype.name)


@contextlib.contextmanager
def _in_words(folder: pathlib.Path) -> Iterator[None]:
    """Turns what the readers of a torn file raise into one error that says what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        if plain := fault(error, folder):
            raise plain from error
        words = str(error).split("\n")[0]
        raise OSError(
            f"checkpoint {folder} cannot be read ({words}); `verify` says which file is damaged, "
            "another --phase may be whole"
        ) from error
