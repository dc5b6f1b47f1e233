"""Consolidation of level l into level l + 1 as a transaction (paper 3.3).

    compute    the sender's pending update (Eq. 2); not applied
    expand     one slot of the receiver unlocks, B = 0
    seed       only that slot learns (`consolidate.seed_slot`)
    gate       accept the slot or roll back (gate.py)
    update     apply the pending update, clear the sender, seal the slot

Teacher and student are two `MemoryState`s over one base, and nothing is changed in place: to roll
back is to keep the state before, byte for byte. Two protocols say what teaches what:

    commit_then_clear   teacher: the sender after its update, experts on; student: the sender's wake
                        weights and experts cleared, and the new slot
    paper               teacher: the sender before its update, experts on; student: the sender after
                        its update, experts cleared, and the new slot
"""

import dataclasses
import warnings
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from sleep_jax.errors import UnrecoverableError
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.memory.schedule import NEARLY_FULL
from sleep_jax.memory.slots import (
    SlotsExhausted,
    clear_experts,
    clear_wake,
    level_of,
    put_slot,
    put_wake,
    take_slot,
    take_wake,
    unlock,
    used,
    without_slots,
    zeroed,
    zeroed_wake,
)
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import place
from sleep_jax.wake.stream import WakeConfig, WakeState, apply_due, forget_moments

PROTOCOLS = ("commit_then_clear", "paper")


class TeacherIsStudent(UnrecoverableError):
    """Teacher and student agree before the night, so there is nothing to learn."""


@flax.struct.dataclass
class MemoryState:
    """Everything of a model that changes: all but its base.

    Attributes:
      memory, slots: the collections of these names.
      wake: state of online learning while reading, whose wake weights are also in `memory`; None:
        the model does not learn while it reads.
    """

    memory: Any
    slots: Any
    wake: WakeState | None = None

    def variables(self, params) -> dict[str, Any]:
        """The collections of the model over a base, as `Decoder.apply` takes them."""
        memory, slots = place(self.memory, "memory"), place(self.slots, "slots")
        return {"params": params, "memory": memory, "slots": slots}

    def without_memory(self) -> "MemoryState":
        """The base alone: no slot is active, and the wake weights change nothing."""
        slots = self.slots
        for name in self.slots["layers"]:
            slots = without_slots(slots, level_of(name))
        levels = map(level_of, self.memory["layers"])
        return MemoryState(zeroed_wake(self.memory, [*levels]), slots)

    def with_wake_state(self, wake: WakeState) -> "MemoryState":
        """The same with another `wake`, whose weights replace those in `memory`."""
        return self.replace(memory=put_wake(self.memory, wake.wake), wake=wake)


@dataclasses.dataclass(frozen=True)
class Transaction:
    """A consolidation that has begun; it ends with `commit`, or is rolled back to `before`.

    Attributes:
      before: the state when it began.
      teacher, student: the student's slot is zeroed unless the slot is reused.
      level, index: the slot that is to be seeded.
      is_merge: the slot replaces all others of its level.
    """

    before: MemoryState
    teacher: MemoryState
    student: MemoryState
    level: int
    index: int
    is_merge: bool = False

    @property
    def is_reuse(self) -> bool:
        """Whether the slot was in use before, so that training continues from what it holds."""
        return self.index < used(self.before.slots, self.level)

    @property
    def has_sender_units(self) -> bool:
        """Whether a new slot may begin as units of its sender: this one is a level, not the
        context, and the slot is no merged or reused one."""
        return self.level > 1 and not (self.is_merge or self.is_reuse)

    def commit(self, memory) -> MemoryState:
        """The state after the night.

        Args:
          memory: the student's, with the slot seeded.
        """
        slot = take_slot(memory, self.level, self.index)
        if not self.is_merge:
            return self.student.replace(
                memory=put_slot(self.student.memory, self.level, self.index, slot)
            )
        # The merged slot moves to the front of the bank that it replaced.
        slots, index = unlock(without_slots(self.student.slots, self.level), self.level)
        memory = put_slot(self.student.memory, self.level, self.index, zeroed(slot))
        return self.student.replace(memory=put_slot(memory, self.level, index, slot), slots=slots)


def check_capacity(memory: MemoryConfig, slots, level: int) -> str:
    """What a night that is to seed a slot of `level` does about its capacity.

    Returns:
      `seed`: a slot is free, or the last one is reused. `merge`: only one slot is free, into which
      the others are merged first. `skip`: no slot is free, and the night changes nothing.

    Raises:
      SlotsExhausted: no slot is free and memory.on_full='error' or 'merge'.
    """
    capacity, in_use = memory.level(level).slots, used(slots, level)
    if memory.on_full == "merge" and capacity > 1 and in_use == capacity - 1 and in_use > 1:
        return "merge"
    if memory.on_full == "reuse" and capacity:
        return "seed"
    if in_use < capacity:
        if level == memory.depth and in_use + 1 >= NEARLY_FULL * capacity and capacity > 1:
            warnings.warn(
                f"level {level}, the slowest, will have {in_use + 1} of its {capacity} slots in "
                f"use; memory.on_full={memory.on_full!r} says what happens after the last one",
                stacklevel=2,
            )
        return "seed"
    if memory.on_full == "skip":
        return "skip"
    raise SlotsExhausted(level, capacity)


def begin_consolidation(
    cfg: DecoderConfig, wake: WakeConfig, state: MemoryState, sender: int, protocol: str, rng
) -> Transaction:
    """Begins the consolidation of a level into the next one.

    Sender 0 is the context, which the caller gives to the teacher and not to the student.

    Args:
      cfg, wake: of the model.
      state: its memory.
      sender: level l; l + 1 receives.
      protocol: one of `PROTOCOLS`.
      rng: PRNG key, for the sender's cleared experts and wake weights.

    Raises:
      ValueError: no such protocol.
      SlotsExhausted: the receiver has no free slot.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r}; choose from {', '.join(PROTOCOLS)}")
    slots, index = _receiver_slot(cfg.memory, state.slots, sender + 1)
    if not sender:
        return Transaction(state, state, state.replace(slots=slots), 1, index)
    # Gradients of a period that is not over stay accumulated.
    updated = _apply_pending(cfg.memory, wake, state, sender)
    experts_key, wake_key = jax.random.split(rng)
    memory, slots = clear_experts(experts_key, cfg.memory, updated.memory, slots, sender)
    if protocol == "paper":
        teacher = state
    else:
        teacher = updated
        memory = clear_wake(wake_key, cfg.memory, memory, sender)
    wake_state = updated.wake
    if wake_state is not None:
        wake_state = wake_state.replace(wake=take_wake(memory))
        if protocol != "paper":
            wake_state = forget_moments(cfg.memory, wake_state, sender)
    return Transaction(state, teacher, MemoryState(memory, slots, wake_state), sender + 1, index)


def begin_merge(cfg: DecoderConfig, state: MemoryState, level: int, rng) -> Transaction:
    """Begins to merge all sealed slots of a level into a new one: they are active in the teacher,
    only the new one is in the student.

    Raises:
      SlotsExhausted: no slot is free to merge into.
    """
    slots, index = unlock(state.slots, level)
    memory, cleared = clear_experts(rng, cfg.memory, state.memory, slots, level)
    name = f"level_{level}"
    is_new = slots["layers"][name]["active"] & ~state.slots["layers"][name]["active"]
    bank = cleared["layers"][name] | {"active": is_new}
    student = state.replace(memory=memory, slots={"layers": cleared["layers"] | {name: bank}})
    return Transaction(state, state, student, level, index, is_merge=True)


def _receiver_slot(memory: MemoryConfig, slots, level: int):
    """The slot that a night seeds, active: the next free one or, where memory.on_full='reuse' and
    none is free, the last. Returns (slots, index)."""
    in_use = used(slots, level)
    if memory.on_full == "reuse" and in_use == memory.level(level).slots > 0:
        return slots, in_use - 1
    return unlock(slots, level)


def _apply_pending(
    memory: MemoryConfig, wake: WakeConfig, state: MemoryState, level: int
) -> MemoryState:
    """The state after the due update of one level, if any; those of other levels stay pending."""
    if state.wake is None:
        return state
    name, due = f"level_{level}", state.wake.is_due
    only_this = {n: is_due & (n == name) for n, is_due in due.items()}
    updated = apply_due(memory, wake, state.wake.replace(is_due=only_this))
    return state.with_wake_state(updated.replace(is_due=due | {name: jnp.zeros((), bool)}))
