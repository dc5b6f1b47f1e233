"""Expert slots of the continuum memory as pure functions over the `memory` and `slots` collections
(paper 3.2).

`memory["layers"]["level_l"]` holds gate and up [layers, S, d, r] and down [layers, S, r, d];
`slots["layers"]["level_l"]` holds active, bool [layers, S]. A slot is the pytree {gate [layers, d,
r], up [layers, d, r], down [layers, r, d]}: what one sleep unlocks, and all that it trains.
"""

import jax
import jax.numpy as jnp
import numpy as np


class SlotsExhausted(RuntimeError):
    """A level has no free slot left. Raised before any compute; nothing was changed."""

    def __init__(self, level: int, capacity: int):
        super().__init__(
            f"memory.slots={capacity} are all in use at level {level}; "
            "start a new run with more memory.slots"
        )
        self.level, self.capacity = level, capacity


def init_memory(rng, *, layers: int, width: int, levels: int, slots: int, rank: int):
    """Memory at birth: A ~ N(0, 1/d), B = 0, nothing active.

    Returns:
      (memory, slots): the two collections.
    """

    def level(rng):
        gate, up = jax.random.normal(rng, (2, layers, slots, width, rank)) * width**-0.5
        return {"gate": gate, "up": up, "down": jnp.zeros((layers, slots, rank, width))}

    names = [f"level_{i}" for i in range(1, levels + 1)]
    memory = {name: level(jax.random.fold_in(rng, i)) for i, name in enumerate(names)}
    active = {name: {"active": jnp.zeros((layers, slots), bool)} for name in names}
    return {"layers": memory}, {"layers": active}


def used(slots, level: int) -> int:
    """How many slots of a level are in use; they fill in order, so this is also the next one's
    index."""
    return int(np.asarray(slots["layers"][f"level_{level}"]["active"]).any(axis=0).sum())


def unlock(slots, level: int):
    """Activates the next slot of a level.

    Returns:
      (slots, index): the new collection and the slot's index.

    Raises:
      SlotsExhausted: every slot is in use.
    """
    name = f"level_{level}"
    active = slots["layers"][name]["active"]
    index = used(slots, level)
    if index == active.shape[1]:
        raise SlotsExhausted(level, index)
    level_slots = {"active": active.at[:, index].set(True)}
    return {"layers": slots["layers"] | {name: level_slots}}, index


def take_slot(memory, level: int, index):
    """One slot of a level: {gate, up: [layers, d, r], down: [layers, r, d]}."""
    return jax.tree.map(lambda x: x[:, index], memory["layers"][f"level_{level}"])


def put_slot(memory, level: int, index, slot):
    """The memory with one slot replaced; every other entry is bit-identical."""
    name = f"level_{level}"
    bank = jax.tree.map(lambda x, s: x.at[:, index].set(s), memory["layers"][name], slot)
    return {"layers": memory["layers"] | {name: bank}}
