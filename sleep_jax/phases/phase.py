"""What a run, its forecast and its inspection know of a phase."""

import dataclasses
from collections.abc import Callable

from sleep_jax.experiment import Experiment
from sleep_jax.phases.hours import HOURS
from sleep_jax.phases.run_state import PhaseLogger, RunState
from sleep_jax.programs.abstract import AbstractRun
from sleep_jax.programs.program import Program
from sleep_jax.run_schedule import ScheduledPhase

PhaseFunction = Callable[[Experiment, RunState, PhaseLogger, ScheduledPhase], RunState]


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a day, a night or a morning.

    Attributes:
      name: by which a schedule has it.
      function: (experiment, what the phases before it left, logger, its place in the schedule) ->
        what it leaves.
      programs: the jitted functions that it calls, with abstract arguments, for a day of the sizes
        that the run is given.
      resumable: it keeps a mid-phase checkpoint and goes on from there; another one begins anew
        after a stop.
    """

    name: str
    function: PhaseFunction
    programs: Callable[[AbstractRun], list[Program]]
    resumable: bool = False

    @property
    def hour(self) -> str:
        """`day`, `night` or `morning`."""
        return HOURS[self.name]
