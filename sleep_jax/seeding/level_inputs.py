"""What a memory level sees of some exchanges: the normalised hidden states that its experts get."""

from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from sleep_jax.data.batches import pad
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.seeding.sequences import Exchange

INPUT_ROWS = 4  # sequences whose inputs exist at a time


def input_rows(exchanges: Sequence[Exchange], length: int) -> Iterator[tuple]:
    """The student's side of some exchanges, INPUT_ROWS at a time.

    Args:
      exchanges: any number of them.
      length: tokens that rows are padded to, and longer sequences cut to.

    Yields:
      (tokens, mask): int32 [INPUT_ROWS, length]; the mask is 1 on real tokens.
    """
    for start in range(0, len(exchanges), INPUT_ROWS):
        part = exchanges[start : start + INPUT_ROWS]
        tokens, mask = pad([(*e.student, *e.completion)[:length] for e in part], length)
        fill = ((0, INPUT_ROWS - len(part)), (0, 0))
        yield np.pad(tokens, fill), np.pad(mask, fill)


def level_inputs(cfg: DecoderConfig, variables, level: int, tokens, mask):
    """What a level sees of tokens int32 [rows, time]: float32 [layers, rows, time, d], 0 where the
    mask is."""
    _, sown = Decoder(cfg.replace(remat="none")).apply(
        variables, tokens, mask, mutable=["intermediates"]
    )
    [h] = sown["intermediates"]["layers"][f"level_{level}"]["input"]
    return h.astype(jnp.float32) * mask[..., None]
