"""Slots that begin as their sender's largest hidden units, instead of adding nothing.

A level adds the sum over its units j of a_j(h) down_j, where a_j(h) = silu(h gate_j) (h up_j) is
the activation of a unit. The size of a unit is how much it adds on the new text,

    size_j = sum over tokens of a_j(h)^2 |down_j|^2,

and in every layer a new slot of rank r begins as the r largest units of its sender's wake weights
and active slots; where the sender has fewer, the rest stay as they were initialised. The sender is
cleared on the same night: what is left to learn is what was dropped, and what a null space takes
away. Gates of a router do not count. A context, level 0, has no units.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from sleep_jax.memory.slots import take_slot
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.experts import side_by_side
from sleep_jax.seeding.level_inputs import input_rows, level_inputs
from sleep_jax.seeding.sequences import Exchange

UNIT_LEAVES = ("gate", "up", "down")  # of an expert; a slot may have a router's leaves, too


def slot_from_sender(
    cfg: DecoderConfig, teacher, level: int, slot, exchanges: Sequence[Exchange], length: int
):
    """A slot that begins as the largest units of the level below its own.

    Args:
      cfg, teacher: the decoder and the collections of the teacher, the sender's weights among them.
      level: of the slot, at least 2.
      slot: as initialised.
      exchanges: what is new.
      length: tokens of a row; longer sequences are cut to it.

    Returns:
      The slot with its gate, up and down replaced.
    """
    units = units_of(teacher, level - 1)
    sizes = jnp.zeros(units["down"].shape[:2])
    for tokens, segment_ids in input_rows(exchanges, length):
        sizes += unit_sizes(cfg, teacher, level - 1, units, tokens, segment_ids)
    return slot | largest_units(units, sizes, slot)


def units_of(variables, level: int):
    """All units of a level side by side: gate and (SwiGLU) up [layers, d, units], down
    [layers, units, d]; all 0 in slots that are not active."""
    name, parts = f"level_{level}", []
    memory, slots = variables["memory"]["layers"][name], variables["slots"]["layers"][name]
    if "wake" in memory:
        parts.append(memory["wake"])
    for index in range(slots["active"].shape[1] if "active" in slots else 0):
        slot, is_active = take_slot(variables["memory"], level, index), slots["active"][:, index]
        masked = {
            name: jnp.where(is_active[:, None, None], slot[name], 0)
            for name in UNIT_LEAVES
            if name in slot
        }
        parts.append(masked)
    return side_by_side([(part, None) for part in parts])[0]


@jax.jit(static_argnames=("cfg", "level"))
def unit_sizes(cfg: DecoderConfig, variables, level: int, units, tokens, segment_ids):
    """The size of each unit of a level on the tokens int32 [rows, time] of all segments but 0:
    float32 [layers, units]."""
    h = level_inputs(cfg, variables, level, tokens, segment_ids)
    activation = jax.nn.silu(jnp.einsum("lbtd,ldu->lbtu", h, units["gate"]))
    if "up" in units:
        activation *= jnp.einsum("lbtd,ldu->lbtu", h, units["up"])
    return jnp.sum(activation**2, (1, 2)) * jnp.sum(units["down"] ** 2, -1)


@jax.jit
def largest_units(units, sizes, slot):
    """A slot whose first units are the largest ones of each layer, without its other leaves. A unit
    of size 0 is not taken: nothing would move it.

    Args:
      units: as of `units_of`.
      sizes: float32 [layers, units].
      slot: gate, up [layers, d, r] and down [layers, r, d].
    """
    count = min(sizes.shape[1], slot["down"].shape[1])
    largest, chosen = jax.lax.top_k(sizes, count)
    out = {}
    for name, weights in units.items():
        axis = 1 if name == "down" else 2
        taken = jnp.take_along_axis(weights, jnp.expand_dims(chosen, 3 - axis), axis)
        initial = jax.lax.slice_in_dim(slot[name], 0, count, axis=axis)
        taken = jnp.where(jnp.expand_dims(largest > 0, 3 - axis), taken, initial)
        out[name] = jax.lax.dynamic_update_slice_in_dim(slot[name], taken, 0, axis)
    return out
