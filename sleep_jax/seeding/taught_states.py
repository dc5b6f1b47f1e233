"""The states by which the exchanges of a night are taught, of teachers that stay as they are or of
which the first follows the student (`seeding.teacher='ema'`): a moving average of its slot, as in
mean teachers (Tarvainen and Valpola, 2017) and SDFT (Shenfeld et al., 2026).

Hidden states of teachers are computed once, before the updates, not in each of them. So the slot of
a teacher that follows moves only every `seeding.teacher_refresh` updates, and then all that is new
is read again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.seeding.host_arrays import HostArrays
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import Exchange, HiddenStates, Teacher
from sleep_jax.seeding.step import SeedingState
from sleep_jax.seeding.trunk import precompute

# The first teacher with this slot; what it has in context it has read with it.
TeacherWithSlot = Callable[[Any], Teacher]


class TaughtStates:
    """Hidden states along the exchanges of a night.

    Args:
      cfg, student: the student and its collections.
      seeding: the settings of the night.
      teachers: before the first update.
      teacher_with_slot: makes the first teacher of a slot that follows the student's; None: the
        teachers stay as they are.
      arrays: holds the states.

    Attributes:
      teachers: as they are now.
      states: of the exchanges, by the id of each.
    """

    def __init__(
        self,
        cfg: DecoderConfig,
        student,
        seeding: SeedingConfig,
        teachers: Sequence[Teacher],
        teacher_with_slot: TeacherWithSlot | None,
        arrays: HostArrays,
    ):
        self.teachers, self.states = list(teachers), {}
        self._arrays = arrays
        self._cfg, self._student, self._seeding = cfg, student, seeding
        self._teacher_with_slot = teacher_with_slot

    def initial(self, state: SeedingState) -> SeedingState:
        """The state before the first update, with the slot of a teacher that follows."""
        if self._teacher_with_slot is None:
            return state
        # A copy: updates are given the state to overwrite.
        return state.replace(teacher_slot=jax.tree.map(jnp.copy, state.slot))

    def compute(self, exchanges: Sequence[Exchange], state: SeedingState) -> None:
        """Computes the states of exchanges, taught as `state` has it."""
        states = self._taught(exchanges, state.teacher_slot)
        self.states = dict(zip(map(id, exchanges), states))
        self._new = [e for e in exchanges if not e.is_known]

    def refreshed(self, step: int, state: SeedingState) -> SeedingState:
        """The state before update `step`: where the teacher that follows is due to move, with its
        slot moved, and what is new taught anew."""
        refresh = self._seeding.teacher_refresh
        if self._teacher_with_slot is None or not step or step % refresh:
            return state
        step_size = 1 - self._seeding.teacher_decay
        slot = optax.incremental_update(state.slot, state.teacher_slot, step_size)
        self._taught(self._new, slot, [self.states[id(e)] for e in self._new])
        return state.replace(teacher_slot=slot)

    def _taught(
        self,
        exchanges: Sequence[Exchange],
        teacher_slot,
        earlier: Sequence[HiddenStates] | None = None,
    ) -> list[HiddenStates]:
        """The states of exchanges; `earlier` ones are overwritten."""
        if self._teacher_with_slot is not None:
            self.teachers[0] = self._teacher_with_slot(teacher_slot)
        return precompute(
            self._cfg,
            self._student,
            self.teachers,
            exchanges,
            self._seeding.shape,
            arrays=self._arrays,
            earlier=earlier,
        )
