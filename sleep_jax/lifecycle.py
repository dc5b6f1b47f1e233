"""Days and nights: wake -> study, consolidate -> write, select, try, learn -> evaluate.

wake         a day's documents are read: into the context, level 0, and, where levels learn by day,
             into their wake weights (Eq. 2)
merge        a full level makes one slot of many (`memory.on_full`)
study        the model, with the documents in view, writes what the night will learn
consolidate  a level hands what it holds to a newly unlocked slot of the next one (Knowledge
             Seeding); the slow levels first, the context last
write        the model, with the documents in view, dreams about them, and about earlier ones that
             it answers badly, from what it dreamt before
select       it keeps the dreams that its gradients favour, and a few at random
try          it learns each one alone, to see whether that makes it better
learn        it learns those that did, and to write more like them
evaluate     what it knows now without the documents, and what that cost elsewhere

Each phase (`phases.phase.Phase`) is a function from one state of the run (`RunState`) to the next.
Their order is known beforehand (`run_schedule`). A checkpoint is saved after each phase, written
while the next one begins; phases that learn or write also save mid-phase checkpoints. A run that
was stopped resumes from the last checkpoint.
"""

import contextlib
import dataclasses
from collections.abc import Collection, Sequence

import jax

from sleep_jax.experiment import Experiment
from sleep_jax.memory.slots import init_memory
from sleep_jax.models.sharding import place
from sleep_jax.phases.registry import PHASES
from sleep_jax.phases.run_state import PhaseLogger, RunState
from sleep_jax.run_schedule import ScheduledPhase
from sleep_jax.runtime.allocator import make_room_for_programs
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.runtime.metrics import MetricWriter
from sleep_jax.runtime.mid_phase import MidPhaseCheckpoint
from sleep_jax.runtime.preemption import Preempted, Watch
from sleep_jax.runtime.profile import Profile
from sleep_jax.runtime.step_timer import Compilations, StepTimer, memory
from sleep_jax.seeding.transaction import MemoryState
from sleep_jax.services import TimeEstimate
from sleep_jax.wake.stream import check_updates, init_wake


def init_run_state(experiment: Experiment) -> RunState:
    """The state before the first phase: the initial memory changes no output."""
    cfg = experiment.cfg
    key = jax.random.key(experiment.config.seed)
    memory, slots = init_memory(key, cfg.memory, layers=cfg.layers, width=cfg.width)
    memory = place(memory, "memory")
    state = MemoryState(memory, place(slots, "slots"))
    learns = any(level.learning_rate for level in cfg.memory.levels)
    wake = init_wake(cfg, experiment.settings.wake, memory) if learns else None
    current = state.replace(wake=place(wake, "wake"))
    return RunState(current, state, state, {"phases": {}, "days": []})


def run(
    experiment: Experiment,
    workdir: str,
    quiet: bool | None = None,
    watch: Watch | None = None,
    profile: Profile | None = None,
    time_estimate: TimeEstimate | None = None,
) -> RunState:
    """Runs the days and nights, from where an earlier attempt in `workdir` was stopped.

    Args:
      experiment: what is run.
      workdir: where checkpoints and metrics go.
      quiet: no progress bars.
      watch: says when to stop; None: never.
      profile: the updates to trace; None: none.
      time_estimate: says how long it will take, once a few updates were made.

    Returns:
      What the last phase left.

    Raises:
      UnrecoverableError: a level is full or never learnt by day, or a night cannot be learnt; the
        phases before are saved.
      ValueError: none of the checkpoints in `workdir` is whole.
      Preempted: the run was asked to stop.
    """
    config, checkpoint = experiment.config.to_dict(), experiment.config.checkpoint
    with (
        MetricWriter(workdir, is_writer=jax.process_index() == 0) as writer,
        PhaseCheckpoints(f"{workdir}/checkpoints", checkpoint.max_to_keep) as saved,
        PhaseCheckpoints(f"{workdir}/mid_phase", keep=2) as under_way,
        Compilations() as compilations,
        profile or contextlib.nullcontext(),
    ):
        state, remaining = init_run_state(experiment), [*enumerate(experiment.schedule)]
        if (latest := saved.latest()) is not None:
            arrays, record = saved.restore(latest[0], state.arrays)
            state = RunState(**arrays, record=record["run"])
            remaining = _remaining(experiment.schedule, state.record["phases"], latest[0])
        for index, scheduled in remaining:
            writer.restart(scheduled.label)
            compiled = compilations.count
            mid_phase = MidPhaseCheckpoint(
                under_way, scheduled.label, checkpoint.save_interval_steps, watch, finished=saved
            )
            timer = StepTimer(experiment.cfg, scheduled.label, profile)
            phase = PHASES[scheduled.phase]
            stopped_by = None if phase.resumable else watch
            logger = PhaseLogger(
                writer, scheduled.label, quiet, mid_phase, timer, stopped_by, time_estimate
            )
            state = phase.function(experiment, state, logger, scheduled)
            is_studied = (
                scheduled.phase == "study"
                and "skipped" not in state.record["phases"][scheduled.label]
            )
            if time_estimate is not None and is_studied:
                time_estimate.add_study(mid_phase.seconds)
            cost = {"seconds": mid_phase.seconds, "memory": memory()["memory_peak"]}
            state = state.note(scheduled.label, **cost, programs=compilations.count - compiled)
            record = {"config": config, "base": experiment.base, "reading": experiment.reading}
            record["run"] = state.record
            under_way.wait()  # one at a time: in several processes the barriers of both would mix
            saved.save(index, scheduled.label, state=state.arrays, record=record)
            make_room_for_programs()
            if watch is not None and watch.should_stop():
                saved.wait()
                raise Preempted(scheduled.label)
        saved.wait()
        under_way.clear()
    if state.current.wake is not None:
        check_updates(experiment.cfg.memory, state.current.wake)
    return state


def _remaining(
    schedule: Sequence[ScheduledPhase], finished: Collection[str], last: int
) -> list[tuple[int, ScheduledPhase]]:
    """The phases that are not finished, each with the index of its checkpoint.

    Where `memory.on_full` was changed since the run began, the schedule has more merges than were
    made, or fewer: indices go on from the last checkpoint all the same, and no random stream is
    used twice.

    Args:
      schedule: all of the run, as its config has it now.
      finished: labels of the finished phases.
      last: index of the last checkpoint.
    """
    done = max(i for i, scheduled in enumerate(schedule) if scheduled.label in finished)
    shift = last - done
    later = max(shift, 0)
    return [
        (i + shift, dataclasses.replace(scheduled, rng_stream=scheduled.rng_stream + later))
        for i, scheduled in enumerate(schedule)
        if i > done
    ]
