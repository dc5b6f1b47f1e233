"""Consolidation of level l into level l + 1 as a transaction (paper 3.3; design, section 4).

    compute    the sender's pending update (Eq. 2); not applied
    expand     one slot of the receiver unlocks, B = 0
    seed       only that slot learns (`consolidate.seed_slot`)
    gate       accept it if the student came close to its teacher and the anchors held
    update     apply the pending update, clear the sender, seal the slot

Teacher and student are two `MemoryState`s over one base, and nothing is ever changed in place: to
roll back is to keep the self that there was, every byte of it. Two protocols say who teaches whom:

    commit_then_clear   teacher: the sender after its update, experts on; student: the sender's wake
                        weights and experts cleared, and the new slot
    paper               teacher: the sender before its update, experts on; student: the sender after
                        its update, experts cleared, and the new slot
"""

import dataclasses
import math
import warnings
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.errors import UnrecoverableError
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.memory.schedule import NEARLY_FULL
from sleep_jax.memory.slots import (
    SlotsExhausted,
    clear_experts,
    clear_wake,
    put_slot,
    put_wake,
    take_slot,
    take_wake,
    unlock,
    used,
    without_slots,
    zeroed,
)
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import place
from sleep_jax.settings import Settings, setting
from sleep_jax.wake.stream import WakeConfig, WakeState, apply_due

ROWS = 4  # of a replay whose hidden states exist at a time
PROTOCOLS = ("commit_then_clear", "paper")


class TeacherIsStudent(UnrecoverableError):
    """Teacher and student agree before the night, so nothing would be learnt."""


@flax.struct.dataclass
class MemoryState:
    """All of a model that ever changes.

    Attributes:
      memory, slots: the collections.
      wake: the reader's state, whose wake weights `memory` holds as well; None: nothing learns by
        day.
    """

    memory: Any
    slots: Any
    wake: WakeState | None = None

    def on(self, params) -> dict[str, Any]:
        """The collections of the model, for the decoder."""
        memory, slots = place(self.memory, "memory"), place(self.slots, "slots")
        return {"params": params, "memory": memory, "slots": slots}

    def having_read(self, state: WakeState) -> "MemoryState":
        """The same with another state of the reader."""
        return self.replace(memory=put_wake(self.memory, state.wake), wake=state)


@dataclasses.dataclass(frozen=True)
class Transaction:
    """A consolidation that has begun; it ends with `commit` or `before`.

    Attributes:
      before: the self that there was, and is again after a roll-back.
      teacher, student: who teaches whom; the student's slot is zeroed unless it is used again.
      level, index: the slot that is to be seeded.
      is_merge: the slot takes over from all others of its level.
    """

    before: MemoryState
    teacher: MemoryState
    student: MemoryState
    level: int
    index: int
    is_merge: bool = False

    @property
    def is_reuse(self) -> bool:
        """The slot was in use before; what it holds is trained on."""
        return self.index < used(self.before.slots, self.level)

    def commit(self, memory) -> MemoryState:
        """The self after the night.

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


def check_room(memory: MemoryConfig, slots, level: int) -> str:
    """What a night that seeds a slot of `level` has to do first, before any compute.

    Returns:
      `seed`: there is room, or the last slot is used again. `merge`: the one free slot is needed to
      merge the others. `skip`: there is no room and the night is to leave the fast memory as it is.

    Raises:
      SlotsExhausted: there is no room and memory.on_full='error', or a single slot to merge.
    """
    capacity, held = memory.level(level).slots, used(slots, level)
    if memory.on_full == "merge" and capacity > 1 and held == capacity - 1 and held > 1:
        return "merge"
    if memory.on_full == "reuse" and capacity:
        return "seed"
    if held < capacity:
        if level == memory.depth and held + 1 >= NEARLY_FULL * capacity and capacity > 1:
            warnings.warn(
                f"level {level}, the slowest, will have {held + 1} of its {capacity} slots in use; "
                f"memory.on_full={memory.on_full!r} says what happens after the last one",
                stacklevel=2,
            )
        return "seed"
    if memory.on_full == "skip":
        return "skip"
    raise SlotsExhausted(level, capacity)


def begin(
    cfg: DecoderConfig, wake: WakeConfig, state: MemoryState, sender: int, protocol: str, rng
) -> Transaction:
    """Begins the consolidation of a level into the next one.

    For the context (sender 0) the caller gives it to the teacher and keeps it from the student.

    Args:
      cfg, wake: of the model.
      state: who sleeps.
      sender: level l; l + 1 receives.
      protocol: one of `PROTOCOLS`.
      rng: PRNG key, for what is redrawn.

    Raises:
      ValueError: no such protocol.
      SlotsExhausted: the receiver has no free slot.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r}; choose from {', '.join(PROTOCOLS)}")
    slots, index = _receiving(cfg.memory, state.slots, sender + 1)
    if not sender:
        return Transaction(state, state, state.replace(slots=slots), 1, index)
    # Should the period not be over, what it gathered so far stays gathered.
    updated = _updated(cfg.memory, wake, state, sender)
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
    return Transaction(state, teacher, MemoryState(memory, slots, wake_state), sender + 1, index)


def begin_merge(cfg: DecoderConfig, state: MemoryState, level: int, rng) -> Transaction:
    """Begins to merge all sealed slots of a level into a fresh one: the teacher has them, the
    student has the fresh one instead.

    Raises:
      SlotsExhausted: there is no free slot to merge into.
    """
    slots, index = unlock(state.slots, level)
    memory, empty = clear_experts(rng, cfg.memory, state.memory, slots, level)
    name = f"level_{level}"
    active = slots["layers"][name]["active"]
    fresh = active & ~state.slots["layers"][name]["active"]
    student = {"layers": empty["layers"] | {name: empty["layers"][name] | {"active": fresh}}}
    return Transaction(
        state, state, state.replace(memory=memory, slots=student), level, index, True
    )


def _receiving(memory: MemoryConfig, slots, level: int):
    """The slot that a night seeds: the next one or, where memory.on_full='reuse' and there is none,
    the last. Returns (slots, index)."""
    held = used(slots, level)
    if memory.on_full == "reuse" and held == memory.level(level).slots > 0:
        return slots, held - 1
    return unlock(slots, level)


def _updated(memory: MemoryConfig, wake: WakeConfig, state: MemoryState, level: int) -> MemoryState:
    """The state after the pending update of one level, if one is due, the others still pending."""
    if state.wake is None:
        return state
    name, due = f"level_{level}", state.wake.is_due
    only_this = {n: is_due & (n == name) for n, is_due in due.items()}
    read = apply_due(memory, wake, state.wake.replace(is_due=only_this))
    return state.having_read(read.replace(is_due=due | {name: jnp.zeros((), bool)}))


@dataclasses.dataclass(frozen=True)
class Gate(Settings, section="gate"):
    """When a seeded slot is accepted; a night that does worse is rolled back."""

    divergence: float = setting(
        0.8, "largest KL to the teacher after a night, as a share of that before; inf: any",
        above=0, most=math.inf,
    )  # fmt: skip
    anchors: float = setting(
        0.1, "largest rise of the anchor perplexity, as a share; inf: any", above=0, most=math.inf
    )

    def rejection_reason(
        self, kl_before: float, kl_after: float, anchors_before: float, anchors_after: float
    ) -> str | None:
        """Why the night is to be rolled back, in words; None: accept it."""
        # Written so that NaN is refused.
        if not kl_after <= self.divergence * kl_before:
            return (
                f"the divergence from the teacher went from {kl_before:.3g} to {kl_after:.3g}, "
                f"above gate.divergence={self.divergence} of it"
            )
        if kl_after == kl_before:
            return f"the divergence from the teacher stayed {kl_before:.3g}: nothing was learnt"
        return self.anchors_rejection_reason(anchors_before, anchors_after)

    def anchors_rejection_reason(self, before: float, after: float) -> str | None:
        """The same of the anchor perplexity alone."""
        if not after <= (1 + self.anchors) * before:
            return (
                f"the anchor perplexity rose from {before:.4g} to {after:.4g}, by more than "
                f"gate.anchors={self.anchors} of it"
            )
        return None


def about_seats(memory: MemoryConfig, slots: int) -> str:
    """What else may be said where a night failed whose slot is one of so many in use."""
    if not 0 < memory.top_k < slots:
        return ""
    return (
        f"; {slots} slots compete for memory.top_k={memory.top_k} seats, and one without a seat "
        "learns nothing: raise it, or set memory.router='none'"
    )


def aim_router(
    cfg: DecoderConfig, params, student: MemoryState, level: int, index: int, tokens, mask
):
    """The student with the new slot's router key at the mean hidden state of its sleep's replay.

    Args:
      cfg: the decoder; without a router the student comes back as it is.
      params: the base.
      student: who will learn.
      level, index: the new slot.
      tokens, mask: int32 [batch, time] of the replay; 1 on real tokens.
    """
    if cfg.memory.router == "none":
        return student
    seen = tokens_seen = 0.0
    for start in range(0, len(tokens), ROWS):
        part = slice(start, start + ROWS)
        fill = ((0, ROWS - len(tokens[part])), (0, 0))
        rows = np.pad(tokens[part], fill), np.pad(mask[part], fill)
        seen = seen + sum_inputs(cfg, student.on(params), level, *rows)
        tokens_seen += float(np.sum(mask[part]))
    slot = take_slot(student.memory, level, index) | {"key": seen / max(tokens_seen, 1.0)}
    return student.replace(memory=put_slot(student.memory, level, index, slot))


@jax.jit(static_argnames=("cfg", "level"))
def sum_inputs(cfg: DecoderConfig, variables, level: int, tokens, mask):
    """What a level sees, summed over real tokens, for each layer stacked with it: [layers, d]."""
    _, seen = Decoder(cfg.replace(remat="none")).apply(
        variables, tokens, mask, mutable=["intermediates"]
    )
    [h] = seen["intermediates"]["layers"][f"level_{level}"]["input"]
    return jnp.sum(h * mask[..., None], (1, 2))
