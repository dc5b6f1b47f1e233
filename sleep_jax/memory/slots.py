"""Expert slots and wake weights of the continuum memory, as pure functions over the `memory` and
`slots` collections (paper 3.2).

`memory["layers"]["level_l"]` holds experts/{gate, up [layers, S, d, r], down [layers, S, r, d]}
and, above the slowest level, wake/{gate, up [layers, d, r], down [layers, r, d]}; with
`memory.expert="lora"` experts/{gate_a, up_a [layers, S, d, r], gate_b, up_b [layers, S, r, f],
down_a [layers, S, f, r], down_b [layers, S, r, d]}, where f is the width of the FFN;
`slots["layers"]["level_l"]` holds carries, bool [layers]: which layers have memory, and, where the
level has slots, active, bool [layers, S]; no array is empty, since Orbax stores none of size zero.
A slot is the pytree of one entry of the bank in every layer: what one consolidation unlocks, and
all that it trains.
"""

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.errors import UnrecoverableError
from sleep_jax.memory.memory_config import MemoryConfig

INITIAL_BIAS = 3.0  # of a router's gate: sigmoid(3) = 0.95
ROUTING = ("key", "bias")
FFN = ("gate", "up", "down")  # matrices of the base's FFN, to each of which `lora` adds A B
OUTPUT_SIDE = ("down", *(f"{name}_b" for name in FFN))  # leaves that are 0 initially


class SlotsExhausted(UnrecoverableError):
    """A level has no free slot left. Raised before any compute; nothing was changed.

    Attributes:
      level: of the memory.
      capacity: its slots, all of them in use.
    """

    def __init__(self, level: int, capacity: int):
        super().__init__(
            f"memory.slots={capacity} of level {level} are all in use; set memory.on_full to "
            "'skip' or 'reuse' to continue this run, or give it more slots with "
            "--continue=WORKDIR --config.memory.slots=..., and where one is free 'merge' may begin"
        )
        self.level, self.capacity = level, capacity


def init_expert(
    rng, memory: MemoryConfig, level: int, width: int, stack=(), routed=False, hidden: int = 0
):
    """Initial low-rank weights, which add nothing: A ~ N(0, 1/d), B = 0.

    Args:
      rng: PRNG key.
      memory: config of the model's memory.
      level: that the expert belongs to.
      width: d.
      stack: leading axes, e.g. (layers, S).
      routed: with the router's key [*stack, d] and bias [*stack].
      hidden: f, width of the FFN; `memory.expert="lora"` alone needs it.
    """
    r = memory.level(level).rank
    if memory.expert == "lora":
        return _init_lora(rng, r, width, hidden, stack)
    projections = ("gate", "up") if memory.expert == "swiglu" else ("gate",)
    normal = jax.random.normal(rng, (len(projections), *stack, width, r)) * width**-0.5
    leaves = dict(zip(projections, normal)) | {"down": jnp.zeros((*stack, r, width))}
    if routed and memory.router != "none":
        leaves |= {"key": jnp.zeros((*stack, width)), "bias": jnp.full(stack, INITIAL_BIAS)}
    return leaves


def _init_lora(rng, rank: int, width: int, hidden: int, stack):
    """A ~ N(0, 1 / its inputs) and B = 0 for each matrix of the FFN (Hu et al., 2021)."""
    if not hidden:
        raise ValueError("hidden=0: memory.expert='lora' needs the width of the FFN")
    sides = {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}
    leaves = {}
    for key, name in zip(jax.random.split(rng, len(FFN)), FFN):
        inputs, outputs = sides[name]
        leaves[f"{name}_a"] = jax.random.normal(key, (*stack, inputs, rank)) * inputs**-0.5
        leaves[f"{name}_b"] = jnp.zeros((*stack, rank, outputs))
    return leaves


def init_level(rng, memory: MemoryConfig, level: int, width: int, stack=(), hidden: int = 0):
    """One level of the `memory` collection: its bank, and wake weights unless it is the slowest.

    Args:
      rng, memory, level, width, hidden: as for `init_expert`.
      stack: leading axes, e.g. (layers,).
    """
    bank, wake = jax.random.split(rng)
    leaves = {}
    if slots := memory.level(level).slots:
        leaves["experts"] = init_expert(bank, memory, level, width, (*stack, slots), True, hidden)
    if memory.has_wake(level):
        leaves["wake"] = init_expert(wake, memory, level, width, stack)
    return leaves


def init_memory(rng, memory: MemoryConfig, *, layers: int, width: int, hidden: int = 0):
    """The initial memory, which changes no output: no slot is active.

    Args:
      rng: PRNG key.
      memory: its config.
      layers: depth of the decoder; layers from the first carrier on are stacked.
      width: d.
      hidden: as for `init_expert`.

    Returns:
      (memory, slots): the two collections.
    """
    carriers = memory.carriers(layers)
    stack = layers - carriers[0]
    carries = np.isin(np.arange(carriers[0], layers), carriers)
    levels = range(1, memory.depth + 1)
    weights = {
        f"level_{n}": init_level(jax.random.fold_in(rng, n - 1), memory, n, width, (stack,), hidden)
        for n in levels
    }
    slots = {f"level_{n}": {"carries": jnp.asarray(carries)} for n in levels}
    for n in levels:
        if count := memory.level(n).slots:
            slots[f"level_{n}"]["active"] = jnp.zeros((stack, count), bool)
    return {"layers": weights}, {"layers": slots}


def grown(rng, config: MemoryConfig, memory, slots, width: int, hidden: int = 0):
    """The memory with as many slots as a config has, of which it has fewer: banks get new ones at
    their end, in the initial form, and all others keep their bits.

    Args:
      rng: PRNG key; the new slots of a level depend on its number and on those it has.
      config: with at least as many slots of each level as the memory has.
      memory, slots: the collections, as arrays of the host.
      width: d.
      hidden: as for `init_expert`.

    Returns:
      (memory, slots).
    """
    for number, level in enumerate(config.levels, 1):
        name = f"level_{number}"
        masks, bank = slots["layers"][name], memory["layers"][name].get("experts")
        layers = len(masks["carries"])
        has = capacity(slots, number)
        if (count := level.slots - has) <= 0:
            continue
        key = jax.random.fold_in(jax.random.fold_in(rng, number), has)
        new = init_expert(key, config, number, width, (layers, count), True, hidden)
        if bank:
            new = jax.tree.map(lambda x, y: np.concatenate([x, y], axis=1), bank, new)
        memory = _with(memory, number, experts=new)
        active = masks.get("active", np.zeros((layers, 0), bool))
        active = np.concatenate([active, np.zeros((layers, count), bool)], axis=1)
        slots = {"layers": slots["layers"] | {name: masks | {"active": active}}}
    return memory, slots


def level_of(name: str) -> int:
    """3 for `level_3`."""
    return int(name.removeprefix("level_"))


def used(slots, level: int) -> int:
    """How many slots of a level are in use; they fill in order, so this is also the index of the
    next one."""
    masks = slots["layers"][f"level_{level}"]
    return int(np.asarray(masks["active"]).any(axis=0).sum()) if "active" in masks else 0


def capacity(slots, level: int) -> int:
    """How many slots a level has."""
    masks = slots["layers"][f"level_{level}"]
    return masks["active"].shape[1] if "active" in masks else 0


def unlock(slots, level: int):
    """Activates the next slot of a level in every layer that carries memory.

    Returns:
      (slots, index): the new collection and the slot's index.

    Raises:
      SlotsExhausted: every slot is in use.
    """
    name = f"level_{level}"
    masks = slots["layers"][name]
    index = used(slots, level)
    if "active" not in masks or index == masks["active"].shape[1]:
        raise SlotsExhausted(level, index)
    # The index is an array, so that all slots share one program.
    active = masks["active"].at[:, jnp.asarray(index)].set(masks["carries"])
    return {"layers": slots["layers"] | {name: masks | {"active": active}}}, index


def take_slot(memory, level: int, index):
    """One slot of a level: {gate, up: [layers, d, r], down: [layers, r, d], ...}."""
    index, bank = jnp.asarray(index), memory["layers"][f"level_{level}"]["experts"]
    return jax.tree.map(lambda x: x[:, index], bank)


def put_slot(memory, level: int, index, slot):
    """The memory with one slot replaced; every other entry is bit-identical."""
    index, bank = jnp.asarray(index), memory["layers"][f"level_{level}"]["experts"]
    bank = jax.tree.map(lambda x, s: x.at[:, index].set(s), bank, slot)
    return _with(memory, level, experts=bank)


def zeroed(slot):
    """A slot, or wake weights, that change nothing: down = 0, or all B = 0."""
    return slot | {name: jnp.zeros_like(slot[name]) for name in OUTPUT_SIDE if name in slot}


def take_wake(memory):
    """The wake weights of all levels that have some: {level_l: {gate, up, down}}."""
    return {name: level["wake"] for name, level in memory["layers"].items() if "wake" in level}


def put_wake(memory, wake):
    """The memory with the wake weights of the levels in `wake` replaced."""
    levels = {name: memory["layers"][name] | {"wake": weights} for name, weights in wake.items()}
    return {"layers": memory["layers"] | levels}


def clear_experts(rng, config: MemoryConfig, memory, slots, level: int):
    """A level with its bank initialised again: A redrawn, B = 0, no slot active.

    Returns:
      (memory, slots).
    """
    if bank := memory["layers"][f"level_{level}"].get("experts"):
        down = bank["down_b" if "down_b" in bank else "down"]
        hidden = bank["gate_b"].shape[-1] if "gate_b" in bank else 0
        stack, width = down.shape[:2], down.shape[-1]
        bank = init_expert(rng, config, level, width, stack, True, hidden)
        memory = _with(memory, level, experts=bank)
    return memory, without_slots(slots, level)


def without_slots(slots, level: int):
    """The `slots` collection with no slot of a level active."""
    name = f"level_{level}"
    masks = slots["layers"][name]
    if "active" in masks:
        masks = masks | {"active": jnp.zeros_like(masks["active"])}
    return {"layers": slots["layers"] | {name: masks}}


def zeroed_wake(memory, levels):
    """The memory whose wake weights of these levels change nothing: down = 0, as when they were
    initialised."""
    wake = {n: zeroed(x) for n, x in take_wake(memory).items() if level_of(n) in levels}
    return put_wake(memory, wake)


def clear_wake(rng, config: MemoryConfig, memory, level: int):
    """A level with its wake weights initialised again: A redrawn, B = 0."""
    down = memory["layers"][f"level_{level}"]["wake"]["down"]
    wake = init_expert(rng, config, level, down.shape[-1], down.shape[:1])
    return put_wake(memory, {f"level_{level}": wake})


def _with(memory, level: int, **parts):
    name = f"level_{level}"
    return {"layers": memory["layers"] | {name: memory["layers"][name] | parts}}
