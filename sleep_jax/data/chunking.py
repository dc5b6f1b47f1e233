"""Cuts a text into chunks of at most so many tokens, where a reader would pause.

After a paragraph if possible, else after a sentence, else after a word; only a word which is too
long by itself is cut inside. No chunk is lost: together they hold every word of the text.
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


# Best cut first: after paragraphs, sentences and lines, words. A piece keeps the space behind it,
# so the pieces of a text always join to it.
CUTS: tuple[Ends, ...] = (_ends_of(r"\n\s*\n"), sentence_ends, _ends_of(r"\s+"))


def split_text(text: str, limit: int, encode: Encode) -> list[str]:
    """Chunks of at most `limit` tokens, of like length: no lone sentence is left at the end.

    Args:
      text: what to cut.
      limit: most tokens of a chunk, as `encode` counts them.
      encode: text to token ids.

    Returns:
      Stripped, non-empty chunks; joined, they are the text but for white space at the cuts.

    Raises:
      ValueError: `limit` is too small for chunks that mean anything.
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
    """Greedy: every chunk takes pieces until the next would not fit; what is too long is cut finer.

    Chunks are stripped; nothing but white space between them is lost.
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
    """Pieces that join to `text`: ending at the best kind of cut, or halves of a single word."""
    if not cuts:
        return [text[: len(text) // 2], text[len(text) // 2 :]]
    ends = [0, *cuts[0](text), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(ends) if b > a]
