"""The header of a GGUF file: its metadata, and the offset of each tensor.

Every length and count that the header declares is compared with what is left of the file before
anything is allocated for it. Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import dataclasses
import math
import pathlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import gguf
import numpy as np

from sleep_jax.fields import shown

VERSIONS = (2, 3)
MOST_DIMENSIONS = 4
_STRING, _ARRAY = int(gguf.GGUFValueType.STRING), int(gguf.GGUFValueType.ARRAY)
_SCALARS = {  # number of a type: its `struct` format
    int(kind): code
    for kind, code in zip(
        (
            gguf.GGUFValueType.UINT8,
            gguf.GGUFValueType.INT8,
            gguf.GGUFValueType.UINT16,
            gguf.GGUFValueType.INT16,
            gguf.GGUFValueType.UINT32,
            gguf.GGUFValueType.INT32,
            gguf.GGUFValueType.FLOAT32,
            gguf.GGUFValueType.UINT64,
            gguf.GGUFValueType.INT64,
            gguf.GGUFValueType.FLOAT64,
            gguf.GGUFValueType.BOOL,
        ),
        "BbHhIifQqd?",
    )
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The location of a tensor.

    Attributes:
      kind: its quantization type.
      shape: in NumPy's order, the last axis contiguous.
      start, size: offset from the beginning of the file and length, in bytes.
    """

    kind: gguf.GGMLQuantizationType
    shape: tuple[int, ...]
    start: int
    size: int


class Header:
    """The parsed header of a GGUF file.

    Attributes:
      data: uint8 [bytes], the memory-mapped file.
      metadata: values by key as Python types, decoded on access.
      tensors: locations by name.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it is truncated, damaged, or not a GGUF file; says at which byte.
    """

    def __init__(self, path: pathlib.Path):
        self.data = np.memmap(path, mode="r")
        cursor = _Cursor(memoryview(self.data), 0)
        if cursor.bytes(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version, count, keys = cursor.scalar("I"), cursor.scalar("Q"), cursor.scalar("Q")
        if version not in VERSIONS:
            raise ValueError(f"version {version}; supported: 2, 3, little-endian")
        starts: dict[str, int] = {}
        for _ in range(keys):
            key = cursor.text()
            if key in starts:
                raise ValueError(f"key {shown(key)} occurs twice")
            starts[key] = cursor.at
            cursor.skip_value()
        self.metadata = _Metadata(cursor.data, starts)
        self.tensors = self._tensors(cursor, count)

    def _tensors(self, cursor: "_Cursor", count: int) -> dict[str, Tensor]:
        listed = {}
        for _ in range(count):
            name, at = cursor.text(), cursor.at
            if name in listed:
                raise ValueError(f"tensor {shown(name)} occurs twice")
            dimensions = cursor.scalar("I")
            if dimensions > MOST_DIMENSIONS:
                raise ValueError(f"a tensor of {dimensions} dimensions at byte {at}")
            shape = tuple(cursor.scalar("Q") for _ in range(dimensions))[::-1]
            listed[name] = shape, cursor.scalar("I"), cursor.scalar("Q")
        alignment = self.metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"general.alignment={shown(alignment)} is no power of two")
        begin = -(-cursor.at // alignment) * alignment
        return {name: self._tensor(name, begin, *entry) for name, entry in listed.items()}

    def _tensor(self, name: str, begin: int, shape, kind: int, offset: int) -> Tensor:
        try:
            kind = gguf.GGMLQuantizationType(kind)
        except ValueError:
            raise ValueError(f"tensor {shown(name)} has the unknown type {kind}") from None
        if 0 in shape:
            raise ValueError(f"tensor {shown(name)} has shape {list(shape)}")
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        if shape and shape[-1] % block:
            raise ValueError(
                f"tensor {shown(name)} has rows of {shape[-1]}, no multiple of {block}"
            )
        start, size = begin + offset, math.prod(shape) * block_bytes // block
        if start + size > len(self.data):
            raise ValueError(f"tensor {shown(name)} ends at byte {start + size}")
        return Tensor(kind, shape, start, size)

    def read(self, tensor: Tensor, rows: slice = slice(None)) -> np.ndarray:
        """A tensor, or rows of it, dequantized to float32.

        Raises:
          NotImplementedError: its quantization type is not supported.
        """
        stored = self.stored(tensor)
        stored = stored[rows] if len(tensor.shape) > 1 else stored
        array = gguf.quants.dequantize(stored, tensor.kind)
        return array if len(tensor.shape) > 1 else array[rows]

    def stored(self, tensor: Tensor) -> np.ndarray:
        """The bytes of a tensor, uint8 [..., bytes of a row]."""
        raw = self.data[tensor.start : tensor.start + tensor.size]
        if not tensor.shape:
            return raw
        block, block_bytes = gguf.GGML_QUANT_SIZES[tensor.kind]
        return raw.reshape(*tensor.shape[:-1], tensor.shape[-1] // block * block_bytes)


class _Metadata(Mapping):
    """Values decoded on access, since a vocabulary takes many times its bytes as Python objects."""

    def __init__(self, data: memoryview, starts: Mapping[str, int]):
        self._data = data
        self._starts = starts

    def __getitem__(self, key: str) -> Any:
        return _Cursor(self._data, self._starts[key]).value()

    def kinds(self, key: str) -> tuple[gguf.GGUFValueType, gguf.GGUFValueType | None]:
        """The type of a value, and that of its entries where it is an array."""
        cursor = _Cursor(self._data, self._starts[key])
        kind = gguf.GGUFValueType(cursor.scalar("I"))
        is_array = kind == gguf.GGUFValueType.ARRAY
        return kind, gguf.GGUFValueType(cursor.scalar("I")) if is_array else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._starts)

    def __len__(self) -> int:
        return len(self._starts)


class _Cursor:
    """A read position in the file; reading beyond the end raises a ValueError."""

    def __init__(self, data: memoryview, at: int):
        self.data = data
        self.at = at

    def skip(self, size: int) -> int:
        """Advances by `size` bytes; returns the position before."""
        start, end = self.at, self.at + size
        if end > len(self.data):
            raise ValueError(f"{size} bytes are declared at byte {start}, and fewer are left")
        self.at = end
        return start

    def bytes(self, size: int) -> bytes:
        start = self.skip(size)
        return bytes(self.data[start : self.at])

    def scalar(self, code: str) -> Any:
        return struct.unpack_from(f"<{code}", self.data, self.skip(struct.calcsize(f"<{code}")))[0]

    def text(self) -> str:
        """A string. Bytes that are not UTF-8 become lone surrogates, since unused texts may hold
        any.
        """
        return self.bytes(self.scalar("Q")).decode("utf-8", "surrogateescape")

    def skip_value(self) -> None:
        """Advances past a value without decoding it."""
        kind = self.scalar("I")
        if kind == _STRING:
            self.skip(self.scalar("Q"))
        elif kind == _ARRAY:
            kind, count = self.scalar("I"), self.scalar("Q")
            if kind == _STRING:
                for _ in range(count):
                    self.skip(self.scalar("Q"))
            else:
                self.skip(count * struct.calcsize(f"<{_code(kind)}"))
        else:
            self.skip(struct.calcsize(f"<{_code(kind)}"))

    def value(self) -> Any:
        kind = self.scalar("I")
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.scalar(_code(kind))
        kind, count = self.scalar("I"), self.scalar("Q")
        if kind == _STRING:
            return [self.text() for _ in range(count)]
        code = _code(kind)
        start = self.skip(count * struct.calcsize(f"<{code}"))
        return np.frombuffer(self.data, f"<{np.dtype(code).str[1:]}", count, start).tolist()


def _code(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"a value of the unknown type {kind}")
    return _SCALARS[kind]
