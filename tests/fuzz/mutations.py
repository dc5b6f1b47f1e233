"""Random changes of files: flipped bits, truncation, and other values.

Every function takes a `random.Random` and changes one thing, so that a seed says what was tried.
"""

import copy
import json
import random
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

# Stand-ins in a tree for what JSON cannot represent; `dumps` replaces them.
DEEP, HUGE = "@deep@", "@huge@"
VALUES = (
    None, True, False, 0, -1, 1, 2, 3, 7, 0.5, -0.0, 1e-40, 1e39, 1e308, float("nan"),
    float("inf"), 2**31, 2**53, 2**63, 10**15, 10**30, -(10**15), "", " ", "x", "0", "1e5", "null",
    "\ud800", "\0", "a\nb", "\u200b", "x" * 5000, "../../x", "/etc/passwd", "{{ x }}",
    "{% for", [], [[]], [None], [0], ["x"], {}, {"x": 1}, {"": {}}, DEEP, HUGE,
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 12, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 10**15, 2**63, 2**64 - 1)
PIECES = (
    b"", b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\r", b"\n", b"\n\n", b"{", b"}", b"[",
    b"]", b'"', b",", b":", b"null", b"NaN", b"1e999", b"-", b"\\", b"\\ud800", b"<|im_end|>", b"#",
    b"'",    b'"""', b"=", b"\xf0\x9f\x8c\x99", b"\xed\xa0\x80",
)  # fmt: skip


def flip(rng: random.Random, data: bytes) -> bytes:
    """Changes a bit, a byte or eight bytes."""
    if not data:
        return b"\0"
    changed, at = bytearray(data), rng.randrange(len(data))
    how = rng.randrange(4)
    if how == 0:
        changed[at] ^= 1 << rng.randrange(8)
    elif how == 1:
        changed[at] = rng.choice((0, 1, 9, 10, 32, 48, 57, 91, 123, 127, 128, 255))
    elif how == 2:
        changed[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS) & 0xFFFFFFFF)
    else:
        changed[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS))
    return bytes(changed)


def move(rng: random.Random, data: bytes) -> bytes:
    """Removes or duplicates a range, truncates, or inserts a small token."""
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice((1, 2, 8, 40, 400)))
    how = rng.randrange(4)
    if how == 0:
        return data[:start] + data[end:]
    if how == 1:
        return data[:end] + data[start:end] * rng.choice((1, 2, 30)) + data[end:]
    if how == 2:
        return data[:start]
    return data[:start] + rng.choice(PIECES) * rng.choice((1, 1, 2, 3000)) + data[start:]


def anything(rng: random.Random) -> Any:
    """A copy of one of `VALUES`."""
    return copy.deepcopy(rng.choice(VALUES))


def spoil(rng: random.Random, data: bytes) -> bytes:
    """Applies `flip` or `move` one to three times."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice((flip, move))(rng, data)
    return data


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree of lists and dicts."""
    nodes, stack = [], [tree]
    while stack:
        node = stack.pop()
        keys = node if isinstance(node, dict) else range(len(node))
        for key in keys:
            nodes.append((node, key))
            if isinstance(node[key], dict | list):
                stack.append(node[key])
    return nodes


def change(rng: random.Random, tree: Any) -> Any:
    """Changes one place of a tree in place, and returns the tree."""
    listed = places(tree) if isinstance(tree, dict | list) else []
    if not listed or rng.random() < 0.02:
        return anything(rng)
    # Every depth is equally likely, or long lists would get nearly all changes.
    node, key = rng.choice(listed if rng.random() < 0.5 else listed[: len(tree) or 1])
    value, how = node[key], rng.randrange(8)
    if how < 4:
        node[key] = anything(rng)
    elif how == 4:
        del node[key]
    elif how == 5 and isinstance(node, dict):
        node[f"{key}{rng.choice(('', '_', 's', 'X'))}"[rng.choice((0, 1)) :]] = node.pop(key)
    elif how == 6:
        other, at = rng.choice(listed)
        node[key] = other[at] if not isinstance(other[at], dict | list) else anything(rng)
    else:
        node[key] = _near(rng, value)
    return tree


def _near(rng: random.Random, value: Any) -> Any:
    """A value of the same type or a similar one."""
    if isinstance(value, bool):
        return rng.choice((not value, int(value), str(value).lower()))
    if isinstance(value, int | float):
        return rng.choice((value + 1, value - 1, -value, value * 1000, value / 2, str(value)))
    if isinstance(value, str):
        return rng.choice((value[1:], value * 2, value.upper(), [value], value + "\ud800", [value]))
    if isinstance(value, list):
        return rng.choice((value[:1], value * 2, value[::-1], [value], dict.fromkeys("ab", value)))
    if isinstance(value, dict):
        return rng.choice((list(value), list(value.values()), [value], str(value)[:200]))
    return anything(rng)


def dumps(rng: random.Random, tree: Any) -> bytes:
    """JSON of a tree; sometimes with a duplicate key."""
    text = json.dumps(tree, ensure_ascii=rng.random() < 0.9)
    depth = rng.choice((40, 900, 20_000))
    text = text.replace(f'"{DEEP}"', "[" * depth + "]" * depth)
    text = text.replace(f'"{HUGE}"', rng.choice(("9" * 400, "9" * 5000, "-1e999")))
    keys = re.findall(r'[{ ]("\w{1,40}"):', text)
    if keys and rng.random() < 0.05:
        extra = json.dumps(rng.choice(VALUES[:40]))
        opening = rng.choice([m.end() for m in re.finditer(r"{", text)])
        text = f"{text[:opening]}{rng.choice(keys)}: {extra}, {text[opening:]}"
    return text.encode("utf-8", "surrogatepass")


def change_json(rng: random.Random, data: bytes) -> bytes:
    """A JSON file with one to three values or some bytes changed, or both."""
    how = rng.random()
    if how < 0.85:
        tree = json.loads(data)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            tree = change(rng, tree)
        data = dumps(rng, tree)
    return spoil(rng, data) if how > 0.8 else data


def change_lines(rng: random.Random, data: bytes) -> bytes:
    """JSON lines with one line or some bytes changed."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    if rng.random() < 0.8 and lines[at]:
        lines[at] = change_json(rng, lines[at])
        return b"\n".join(lines)
    return spoil(rng, data)


def among(pieces: Sequence[bytes]) -> Callable[[random.Random, bytes], bytes]:
    """A change that inserts one of these pieces, replaces one by another, or changes bytes."""

    def changed(rng: random.Random, data: bytes) -> bytes:
        if rng.random() < 0.4:
            return spoil(rng, data)
        for _ in range(rng.choice((1, 1, 2, 3))):
            piece, at = rng.choice(pieces), rng.randrange(len(data) + 1)
            old = rng.choice(pieces)
            if rng.random() < 0.5 and old in data:
                data = data.replace(old, piece, rng.choice((1, -1)))
            else:
                data = data[:at] + piece + data[at:]
        return data

    return changed
