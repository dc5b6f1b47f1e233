"""Safetensors files, sharded, written a chunk of rows at a time.

The library's own writer takes all tensors of a file at once. The format is a header and then the
tensors: https://github.com/huggingface/safetensors#format
"""

import dataclasses
import json
import math
import pathlib
import struct
from collections.abc import Callable, Iterator, Sequence

import ml_dtypes
import numpy as np

from sleep_jax.interop.tensors import is_finite

DTYPES = {  # name of a dtype: NumPy's, and the format's name
    "float32": (np.dtype(np.float32), "F32"),
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), "BF16"),
    "float16": (np.dtype(np.float16), "F16"),
}
_ALIGNMENT = 8  # of the header, as the library writes it


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor to write.

    Attributes:
      name: in the file.
      shape: of all of it.
      rows: its rows in order, in chunks [rows, ...] of any float dtype.
    """

    name: str
    shape: tuple[int, ...]
    rows: Callable[[], Iterator[np.ndarray]]


def write_shards(
    folder: pathlib.Path,
    tensors: Sequence[Tensor],
    dtype: str,
    shard_bytes: int,
    on_tensor: Callable[[], None] = lambda: None,
) -> list[str]:
    """Writes tensors as `model.safetensors`, or as several such files and their index.

    Args:
      folder: that exists.
      tensors: in order; each is in one shard.
      dtype: of all tensors, a key of `DTYPES`.
      shard_bytes: most of a shard; a larger tensor has one of its own.
      on_tensor: called after every tensor.

    Returns:
      The names of the shards.

    Raises:
      ValueError: a value is not finite in `dtype`; names the tensor.
    """
    stored, _ = DTYPES[dtype]
    shards: list[list[Tensor]] = [[]]
    used = 0
    for tensor in tensors:
        size = math.prod(tensor.shape) * stored.itemsize
        if shards[-1] and used + size > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += size
    count = len(shards)
    names = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    names = names if count > 1 else ["model.safetensors"]
    for name, shard in zip(names, shards):
        write_file(folder / name, shard, dtype, on_tensor)
    if count > 1:
        total = sum(math.prod(tensor.shape) for tensor in tensors) * stored.itemsize
        weight_map = {x.name: name for name, shard in zip(names, shards) for x in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(f"{json.dumps(index, indent=2)}\n")
    return names


def write_file(
    path: pathlib.Path,
    tensors: Sequence[Tensor],
    dtype: str,
    on_tensor: Callable[[], None] = lambda: None,
) -> None:
    """Writes tensors as one file; arguments and errors as of `write_shards`."""
    stored, kind = DTYPES[dtype]
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for tensor in tensors:
        end = at + math.prod(tensor.shape) * stored.itemsize
        header[tensor.name] = {"dtype": kind, "shape": tensor.shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            begin = file.tell()
            for rows in tensor.rows():
                file.write(memoryview(converted(rows, stored, tensor.name)).cast("B"))
            written, size = file.tell() - begin, math.prod(tensor.shape) * stored.itemsize
            if written != size:
                raise AssertionError(f"{tensor.name}: {written} bytes of {size} were written")
            on_tensor()


def converted(rows: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """Rows of a tensor in another dtype, contiguous and viewed as bytes are written.

    Raises:
      ValueError: a value is not finite in it.
    """
    with np.errstate(over="ignore"):  # overflow becomes infinity, which is refused
        cast = np.ascontiguousarray(rows, dtype)
    if not is_finite(cast):
        raise ValueError(
            f"{name} has a value that is not finite, or too large for {dtype.name}; export in "
            "float32 or bfloat16"
        )
    return cast.view(np.uint8)
