"""Tensors from a Hugging Face safetensors checkpoint, single or sharded."""

import pathlib
import re

import numpy as np
from safetensors import SafetensorError, safe_open

from sleep_jax.fields import read_object, reason
from sleep_jax.interop.tensors import ALL

_DTYPES = ("F32", "F16", "BF16", "F64")
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


class SafetensorsFolder:
    """A model folder as a `WeightsFile`; tensors are read when asked for.

    Attributes:
      folder: of the model.
    """

    naming = "huggingface"

    def __init__(self, folder: pathlib.Path):
        """Opens every shard, which checks that no file is truncated.

        Raises:
          FileNotFoundError: no weights, or a shard that the index names is missing.
          ValueError: a file is truncated or damaged.
        """
        self.folder = folder
        index, single = folder / _INDEX, folder / _SINGLE
        if index.exists():
            self._shard_of = _weight_map(index)
        elif single.exists():
            self._shard_of = None
        else:
            raise FileNotFoundError(
                f"no {_SINGLE} and no {_INDEX} in {folder}; convert other formats with "
                "`AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)`"
            )
        shards = sorted(set(self._shard_of.values())) if self._shard_of else [_SINGLE]
        if missing := [shard for shard in shards if not (folder / shard).exists()]:
            raise FileNotFoundError(
                f"{folder} lacks {len(missing)} of the {len(shards)} shards that {_INDEX} names: "
                f"{', '.join(missing)}; download them again"
            )
        self._shards = {shard: _open(folder / shard) for shard in shards}
        self._names = {shard: set(file.keys()) for shard, file in self._shards.items()}

    def names(self) -> set[str]:
        """The names of the tensors in all shards."""
        return set().union(*self._names.values())

    def file(self, name: str) -> str:
        """The path of the file that should hold a tensor."""
        shard = _SINGLE if self._shard_of is None else self._shard_of.get(name, _INDEX)
        return str(self.folder / shard)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it.

        Raises:
          ValueError: no such tensor.
        """
        return tuple(self._shard(name).get_slice(name).get_shape())

    def read(self, name: str, rows: slice = ALL) -> np.ndarray:
        """A tensor, or rows of it, in its stored dtype.

        Raises:
          ValueError: no such tensor, or its dtype is not a plain float.
        """
        file = self._shard(name)
        stored = file.get_slice(name)
        dtype = stored.get_dtype()
        if dtype not in _DTYPES:
            raise ValueError(
                f"tensor {name!r} in {self.file(name)} is stored as {dtype}; "
                f"supported: {', '.join(_DTYPES)}"
            )
        return file.get_tensor(name) if rows == ALL else stored[rows]

    def _shard(self, name: str):
        """The open file of a tensor."""
        shard = _SINGLE if self._shard_of is None else self._shard_of.get(name)
        if name not in self._names.get(shard, ()):
            raise ValueError(
                f"{self.file(name)} has no tensor {name!r}, which config.json asks for"
            )
        return self._shards[shard]


def _weight_map(index: pathlib.Path) -> dict[str, str]:
    """The file name of each tensor, in the folder of the index."""
    read = read_object(index).section("weight_map")
    shards = {name: read.text(name) for name in read}
    for name, shard in shards.items():
        if not re.fullmatch(r"[\w.-]{1,240}\.safetensors", shard):
            read.refuse(name, "the name of a .safetensors file beside the index")
    if not shards:
        raise ValueError(f"{index}: weight_map names no tensor; download it again")
    return shards


def _open(path: pathlib.Path):
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is truncated or damaged ({reason(error)}); "
            "download it again"
        ) from error
