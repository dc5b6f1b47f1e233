"""What a memory level sees of some exchanges: the normalised hidden states that its experts get."""

import math
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from sleep_jax.data.batches import pack
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.seeding.sequences import Exchange

INPUT_ROWS = 4  # whose inputs exist at a time


def input_rows(exchanges: Sequence[Exchange], length: int) -> Iterator[tuple]:
    """The student's side of some exchanges, packed into rows, INPUT_ROWS at a time.

    Args:
      exchanges: any number of them.
      length: tokens of a row; longer sequences are cut to it.

    Yields:
      (tokens, segment_ids): int32 [INPUT_ROWS, length]; segment 0 is padding.
    """
    texts = [(*e.student, *e.completion)[:length] for e in exchanges]
    packed = _packed(exchanges, length)
    for start in range(0, len(packed), INPUT_ROWS):
        tokens, segment_ids = np.zeros((2, INPUT_ROWS, length), np.int32)
        for row, members in enumerate(packed[start : start + INPUT_ROWS]):
            filled = 0
            for segment, i in enumerate(members, start=1):
                where = slice(filled, filled + len(texts[i]))
                tokens[row, where], segment_ids[row, where] = texts[i], segment
                filled += len(texts[i])
        yield tokens, segment_ids


def input_calls(exchanges: Sequence[Exchange], length: int) -> int:
    """How many pairs `input_rows` yields."""
    return math.ceil(len(_packed(exchanges, length)) / INPUT_ROWS)


def _packed(exchanges: Sequence[Exchange], length: int) -> list[list[int]]:
    """The exchanges of each row, by index."""
    sizes = [(min(len(e.student) + len(e.completion), length),) for e in exchanges]
    return pack(sizes, (length,))


def level_inputs(cfg: DecoderConfig, variables, level: int, tokens, segment_ids):
    """What a level sees of tokens int32 [rows, time]: float32 [layers, rows, time, d], 0 on
    padding."""
    _, sown = Decoder(cfg.replace(remat="none")).apply(
        variables, tokens, segment_ids, mutable=["intermediates"]
    )
    [h] = sown["intermediates"]["layers"][f"level_{level}"]["input"]
    return h.astype(jnp.float32) * (segment_ids > 0)[..., None]
