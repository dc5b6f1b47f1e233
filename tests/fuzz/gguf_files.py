"""GGUF files from lists of keys and tensors, so that malformed ones can be written."""

import random
import struct

from mutations import NUMBERS, VALUES, flip, move

U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10
_FORMS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    U32: "I",
    5: "i",
    F32: "f",
    BOOL: "?",
    U64: "Q",
    11: "q",
    12: "d",
}


def encode(keys: list, tensors: list) -> bytes:
    """A file.

    Args:
      keys: [key, type, value]; of an array, type is [ARRAY, type of the entries].
      tensors: [name, dims, type, bytes], dims as GGUF has them, the contiguous one first.
    """
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(keys))]
    head += [_text(key) + _value(kind, value) for key, kind, value in keys]
    data = b""
    for name, dims, kind, content in tensors:
        data += bytes(-len(data) % 32)
        head += [_text(name), struct.pack("<I", len(dims)), *(struct.pack("<Q", n) for n in dims)]
        head.append(struct.pack("<IQ", kind, len(data)))
        data += content
    header = b"".join(head)
    return header + bytes(-len(header) % 32) + data


def _text(text: str) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(content)) + content


def _value(kind, value) -> bytes:
    if isinstance(kind, list):
        entries = b"".join(_entry(kind[1], x) for x in value)
        return struct.pack("<IIQ", ARRAY, kind[1], len(value)) + entries
    return struct.pack("<I", kind) + _entry(kind, value)


def _entry(kind: int, value) -> bytes:
    return _text(value) if kind == STRING else struct.pack(f"<{_FORMS[kind]}", value)


def change_keys(rng: random.Random, keys: list) -> list:
    """Removes, renames or duplicates a key, or changes its value or type."""
    keys = [list(x) for x in keys]
    at = rng.randrange(len(keys))
    key, kind, value = keys[at]
    how = rng.randrange(6)
    if how == 0:
        del keys[at]
    elif how == 1:
        keys[at][0] = key[:-1] if rng.random() < 0.5 else rng.choice(keys)[0]
    elif how == 2 and isinstance(kind, list) and value:
        value = list(value)
        for _ in range(rng.choice((1, 1, 3))):
            i = rng.randrange(len(value) or 1)
            other = (
                rng.choice(value or [""]) if kind[1] == STRING else rng.choice((0, 1, 3, 4, 6, 99))
            )
            value[i : i + 1] = rng.choice(([], [other], [other, *value[i : i + 1]]))
        keys[at][2] = value
    elif how == 3 and kind in (U32, F32):
        keys[at][2] = rng.choice((0, 1, 2, 3, 5, 7, 8, 16, value + 1, 2**31, 1e9, 2**32 - 1))
        keys[at][2] = float(keys[at][2]) if kind == F32 else int(keys[at][2])
    else:
        keys[at][1:] = _any_value(rng)
    return keys


def _any_value(rng: random.Random) -> list:
    """A random type and a value of it."""
    number = rng.choice(NUMBERS)
    texts = [x for x in VALUES if isinstance(x, str)]
    return rng.choice(
        (
            [U32, number & 0xFFFFFFFF],
            [U64, number],
            [11, -(number & 0xFFFF)],
            [F32, rng.choice((0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf")))],
            [BOOL, True],
            [STRING, rng.choice(texts)],
            [[ARRAY, U32], [number & 0xFFFFFFFF] * rng.choice((0, 1, 2, 300))],
            [[ARRAY, STRING], [rng.choice(texts)] * rng.choice((0, 1, 300))],
        )
    )


def change_header(rng: random.Random, data: bytes, length: int) -> bytes:
    """Changes a number or a range within the first `length` bytes."""
    for _ in range(rng.choice((1, 1, 2))):
        part = data[:length]
        data = rng.choice((flip, flip, move))(rng, part) + data[length:]
    return data
