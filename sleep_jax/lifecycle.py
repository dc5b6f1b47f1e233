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
import jax.numpy as jnp

from sleep_jax.config import read, restored
from sleep_jax.days import read_days, reading_of, write_days
from sleep_jax.experiment import Experiment
from sleep_jax.memory.slots import capacity, grown, init_memory
from sleep_jax.models.sharding import place, to_host
from sleep_jax.phases.hours import nights_over
from sleep_jax.phases.registry import PHASES
from sleep_jax.phases.rng_streams import GROWTH
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
    shape = {"layers": cfg.layers, "width": cfg.width, "hidden": cfg.hidden}
    memory, slots = init_memory(key, cfg.memory, **shape)
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
    """Runs the days and nights, from where an earlier attempt in `workdir` was stopped, or where a
    run of fewer days had ended.

    Args:
      experiment: what is run: all days that it was ever given (`continuation`).
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
      ValueError: none of the checkpoints in `workdir` is whole, or the run there has more days.
      Preempted: the run was asked to stop.
    """
    base, checkpoint = experiment.base, experiment.config.checkpoint
    with (
        MetricWriter(workdir, is_writer=jax.process_index() == 0) as writer,
        PhaseCheckpoints(f"{workdir}/checkpoints", checkpoint.max_to_keep) as saved,
        PhaseCheckpoints(f"{workdir}/mid_phase", keep=2) as under_way,
        Compilations() as compilations,
        profile or contextlib.nullcontext(),
    ):
        if (latest := saved.latest()) is None:
            experiment = _recorded(experiment, workdir)
            state = init_run_state(experiment.on(0))
            remaining = [*enumerate(experiment.schedule)]
        else:
            state = _restored(experiment, saved, latest[0])
            experiment = _recorded(experiment, workdir, nights_over(state.record))
            remaining = _remaining(experiment.schedule, state.record["phases"], latest[0])
        for index, scheduled in remaining:
            night = experiment.on(scheduled.day)
            state = _with_new_slots(night, state)
            writer.restart(scheduled.label)
            programs, compiled = compilations.count, compilations.compiled
            mid_phase = MidPhaseCheckpoint(
                under_way, scheduled.label, checkpoint.save_interval_steps, watch, finished=saved
            )
            timer = StepTimer(night.cfg, scheduled.label, profile)
            phase = PHASES[scheduled.phase]
            stopped_by = None if phase.resumable else watch
            logger = PhaseLogger(
                writer, scheduled.label, quiet, mid_phase, timer, stopped_by, time_estimate
            )
            state = phase.function(night, state, logger, scheduled)
            is_studied = (
                scheduled.phase == "study"
                and "skipped" not in state.record["phases"][scheduled.label]
            )
            if time_estimate is not None and is_studied:
                time_estimate.add_study(mid_phase.seconds)
            cost = {"seconds": mid_phase.seconds, "memory": memory()["memory_peak"]}
            made = compilations.count - programs, compilations.compiled - compiled
            cost |= dict(zip(("programs", "compiled"), made))
            state = state.note(scheduled.label, **cost)
            record = {"config": night.config.to_dict(), "base": base, "run": state.record}
            record |= {"reading": experiment.reading, "days_given": len(experiment.days)}
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


def _recorded(experiment: Experiment, workdir: str, over: int = 0) -> Experiment:
    """The experiment with its days on record in `workdir`. Nights that are over keep the settings
    that they had.

    Args:
      experiment, workdir: of the run.
      over: how many nights are.

    Raises:
      ValueError: the run has more days.
    """
    known, count = read_days(workdir), len(experiment.days)
    if len(known) > count and reading_of(known[:count]) == experiment.reading:
        raise ValueError(
            f"the run in {workdir} has {len(known)} days, and this is one of {count}; go on with "
            f"--continue={workdir}"
        )
    configs = [day.config or experiment.config for day in experiment.days]
    configs[:over] = [day.config for day in known[:over]] or configs[:over]
    days = [dataclasses.replace(day, config=x) for day, x in zip(experiment.days, configs)]
    experiment = dataclasses.replace(experiment, days=tuple(days))
    if experiment.days != known:
        write_days(workdir, experiment.days)
    return experiment


def _restored(experiment: Experiment, saved: PhaseCheckpoints, index: int) -> RunState:
    """What a checkpoint holds; its memory has the slots of the settings that it was made with."""
    record = saved.record(index)
    memory = read(restored(record["config"], f"checkpoint {index}")).memory
    initial = init_run_state(
        dataclasses.replace(experiment, cfg=experiment.cfg.replace(memory=memory))
    )
    arrays, record = saved.restore(index, initial.arrays)
    return RunState(**arrays, record=record["run"])


def _with_new_slots(experiment: Experiment, run: RunState) -> RunState:
    """The run with the slots that its settings have more than it has."""
    cfg = experiment.cfg
    levels = enumerate(cfg.memory.levels, 1)
    if all(capacity(run.current.slots, n) >= level.slots for n, level in levels):
        return run
    key = jax.random.fold_in(jax.random.key(experiment.config.seed), GROWTH)

    def grow(state: MemoryState) -> MemoryState:
        memory, slots = to_host((state.memory, state.slots))
        more = grown(key, cfg.memory, memory, slots, cfg.width, cfg.hidden)
        memory, slots = jax.tree.map(jnp.asarray, more)
        return state.replace(memory=place(memory, "memory"), slots=place(slots, "slots"))

    return RunState(**{name: grow(x) for name, x in run.arrays.items()}, record=run.record)


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
