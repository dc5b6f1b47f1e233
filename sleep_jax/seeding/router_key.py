"""The initial router key of a new slot: the mean hidden state of what the slot will learn from."""

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.memory.slots import put_slot, take_slot
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.seeding.transaction import MemoryState

REPLAY_ROWS = 4  # rows of a replay whose hidden states exist at a time


def init_router_key(
    cfg: DecoderConfig, params, student: MemoryState, level: int, index: int, tokens, mask
):
    """The student with the new slot's router key at the mean hidden state of a replay.

    Args:
      cfg: the decoder; without a router the student is returned unchanged.
      params: the base.
      student: its memory.
      level, index: the new slot.
      tokens, mask: int32 [rows, time] of the replay; the mask is 1 on real tokens.
    """
    if cfg.memory.router == "none":
        return student
    total = count = 0.0
    for start in range(0, len(tokens), REPLAY_ROWS):
        part = slice(start, start + REPLAY_ROWS)
        fill = ((0, REPLAY_ROWS - len(tokens[part])), (0, 0))
        rows = np.pad(tokens[part], fill), np.pad(mask[part], fill)
        total = total + sum_inputs(cfg, student.variables(params), level, *rows)
        count += float(np.sum(mask[part]))
    slot = take_slot(student.memory, level, index) | {"key": total / max(count, 1.0)}
    return student.replace(memory=put_slot(student.memory, level, index, slot))


@jax.jit(static_argnames=("cfg", "level"))
def sum_inputs(cfg: DecoderConfig, variables, level: int, tokens, mask):
    """A level's input hidden states, summed over real tokens: float32 [layers, d]."""
    _, sown = Decoder(cfg.replace(remat="none")).apply(
        variables, tokens, mask, mutable=["intermediates"]
    )
    [h] = sown["intermediates"]["layers"][f"level_{level}"]["input"]
    return jnp.sum(h * mask[..., None], (1, 2))
