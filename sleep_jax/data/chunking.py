"""Cuts a text into chunks of a largest number of tokens, at natural boundaries.

A cut is after a paragraph if possible, else after a sentence, else after a word; only a word that
is too long for a chunk is cut inside. Together the chunks hold every word of the text.
"""

import itertools
import math
import re
from collections.abc import Callable, Sequence

from sleep_jax.data.sentences import sentence_ends

MIN_CHUNK_TOKENS = 8

Encode = Callable[[str], Sequence[int]]
Ends = Callable[[str], Sequence[int]]  # offsets


def _ends_of(pattern: str) -> Ends:
    return lambda text: [match.end() for match in re.finditer(pattern, text)]


# Preferred cuts first: after paragraphs, sentences and lines, words. A piece keeps the white space
# after it, so the pieces of a text join to it.
CUTS: tuple[Ends, ...] = (_ends_of(r"\n\s*\n"), sentence_ends, _ends_of(r"\s+"))


def split_text(text: str, limit: int, encode: Encode) -> list[str]:
    """Chunks of at most `limit` tokens and similar length, with no short rest at the end.

    Args:
      text: the text to cut.
      limit: most tokens of a chunk, as `encode` counts them.
      encode: text to token ids.

    Returns:
      Stripped, non-empty chunks; joined, they are the text except for white space at the cuts.

    Raises:
      ValueError: `limit` is below `MIN_CHUNK_TOKENS`, or a single character has more tokens.
    """
    if limit < MIN_CHUNK_TOKENS:
        raise ValueError(f"chunks of {limit} tokens; allow at least {MIN_CHUNK_TOKENS}")
    chunks = _split(text, limit, encode)
    if len(chunks) < 2:
        return chunks
    even = math.ceil(len(encode(text)) / len(chunks))
    for smaller in (even, math.ceil(1.1 * even), math.ceil(1.25 * even)):
        if smaller < limit and len(better := _split(text, smaller, encode)) == len(chunks):
            return better
    return chunks


def _split(text: str, limit: int, encode: Encode, cuts: Sequence[Ends] = CUTS) -> list[str]:
    """Greedy: a chunk takes pieces while they fit; a piece too long for a chunk is cut by the next
    kind of cut. Chunks are stripped.
    """
    if len(encode(text.strip())) <= limit:
        return [text.strip()] if text.strip() else []
    chunks, current = [], ""
    for piece in _pieces(text, cuts):
        if len(encode((current + piece).strip())) <= limit:
            current += piece
            continue
        *whole, current = [*filter(None, [current]), piece]
        chunks += [chunk.strip() for chunk in whole]
        if len(encode(current.strip())) > limit:
            if len(current) == 1:
                raise ValueError(f"encode gives {current!r} more than {limit} tokens")
            *parts, current = _split(current, limit, encode, cuts[1:])
            chunks += parts
            current += re.search(r"\s*\Z", piece)[0]
    return [chunk for chunk in [*chunks, current.strip()] if chunk]


def _pieces(text: str, cuts: Sequence[Ends]) -> list[str]:
    """Pieces that join to `text`: cut by the first of `cuts`, or halved where none is left."""
    if not cuts:
        return [text[: len(text) // 2], text[len(text) // 2 :]]
    ends = [0, *cuts[0](text), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(ends) if b > a]
