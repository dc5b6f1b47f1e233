"""Tensors from a Hugging Face safetensors checkpoint, single or sharded.

They are mapped, a tensor at a time: only the part that is used is read, and it counts as memory of
the process only as long as it is. The format is a header and then the tensors:
https://github.com/huggingface/safetensors#format
"""

import dataclasses
import pathlib
import re
import struct

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from sleep_jax.fields import Fields, as_object, parse_json, read_object, reason
from sleep_jax.interop.tensors import ALL

_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "F64": np.float64}
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """The location of a tensor.

    Attributes:
      dtype: the format's name of it, e.g. `BF16`.
      shape: in NumPy's order.
      start: offset from the beginning of the file, in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int

    @classmethod
    def of(cls, entry: Fields, begin: int) -> "_Tensor":
        """The tensor of an entry of the header, where the data begin at byte `begin`."""
        return cls(entry["dtype"], tuple(entry["shape"]), begin + entry["data_offsets"][0])


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
        self._shards = {shard: _header(folder / shard) for shard in shards}

    def names(self) -> set[str]:
        """The names of the tensors in all shards."""
        return set().union(*self._shards.values())

    def file(self, name: str) -> str:
        """The path of the file that should hold a tensor."""
        shard = _SINGLE if self._shard_of is None else self._shard_of.get(name, _INDEX)
        return str(self.folder / shard)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it.

        Raises:
          ValueError: no such tensor.
        """
        return self._tensor(name).shape

    def read(self, name: str, rows: slice = ALL) -> np.ndarray:
        """A tensor, or rows of it, in its stored dtype; read-only, and mapped.

        Raises:
          ValueError: no such tensor, or its dtype is not a plain float.
        """
        tensor = self._tensor(name)
        if tensor.dtype not in _DTYPES:
            raise ValueError(
                f"tensor {name!r} in {self.file(name)} is stored as {tensor.dtype}; "
                f"supported: {', '.join(_DTYPES)}"
            )
        dtype = np.dtype(_DTYPES[tensor.dtype])
        mapped = np.memmap(self.file(name), dtype, "r", tensor.start, tensor.shape)
        return np.asarray(mapped)[rows]

    def _tensor(self, name: str) -> _Tensor:
        """Where a tensor lies."""
        shard = _SINGLE if self._shard_of is None else self._shard_of.get(name)
        if name not in self._shards.get(shard, ()):
            raise ValueError(
                f"{self.file(name)} has no tensor {name!r}, which config.json asks for"
            )
        return self._shards[shard][name]


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


def _header(path: pathlib.Path) -> dict[str, _Tensor]:
    """The tensors of a file; the library checks that they are consistent and lie within it.

    Raises:
      ValueError: the file is truncated or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is truncated or damaged ({reason(error)}); "
            "download it again"
        ) from error
    with path.open("rb") as file:
        [size] = struct.unpack("<Q", file.read(8))
        listed = as_object(parse_json(file.read(size), str(path)), str(path))
    return {name: _Tensor.of(listed.section(name), 8 + size) for name in names}
