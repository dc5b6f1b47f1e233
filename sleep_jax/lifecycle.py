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
try          it learns each one on its own, to see whether that makes it better
learn        it learns those that did, and to write more like them
evaluate     what it knows now without the documents, and what that cost elsewhere

Each phase is a function from what the phases before it left (`RunState`) to what it leaves. Their
order is worked out beforehand (`run_schedule`). A checkpoint follows each one, written while the
next begins, and within those that learn or write a mid-phase checkpoint is kept, so a run that
stops goes on where it was."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Sequence

import jax

from sleep_jax.experiment import Experiment
from sleep_jax.memory.slots import init_memory
from sleep_jax.models.sharding import place
from sleep_jax.phases.consolidate import consolidate, merge
from sleep_jax.phases.evaluate import evaluate
from sleep_jax.phases.learn import learn
from sleep_jax.phases.run_state import PhaseLogger, RunState
from sleep_jax.phases.select import select
from sleep_jax.phases.study import study
from sleep_jax.phases.trial import try_out
from sleep_jax.phases.wake import wake
from sleep_jax.phases.write import write
from sleep_jax.run_schedule import Step
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

PHASES: dict[str, Callable[[Experiment, RunState, PhaseLogger, Step], RunState]] = {
    "wake": wake,
    "study": study,
    "merge": merge,
    "consolidate": consolidate,
    "write": write,
    "select": select,
    "try": try_out,
    "learn": learn,
    "evaluate": evaluate,
}
RESUMABLE = ("study", "merge", "consolidate", "write", "learn")


def init_run_state(experiment: Experiment) -> RunState:
    """The state before the first phase: the initial memory changes no output."""
    cfg = experiment.cfg
    key = jax.random.key(experiment.config.seed)
    memory, slots = init_memory(key, cfg.memory, layers=cfg.layers, width=cfg.width)
    memory = place(memory, "memory")
    asleep = MemoryState(memory, place(slots, "slots"))
    learns = any(level.learning_rate for level in cfg.memory.levels)
    wake = init_wake(cfg, experiment.settings.wake, memory) if learns else None
    return RunState(
        asleep.replace(wake=place(wake, "wake")), asleep, asleep, {"phases": {}, "days": []}
    )


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
      watch: says when to stop; None: nobody does.
      profile: the updates to trace; None: none.
      time_estimate: says how long it will take, once a few updates were made.

    Returns:
      What the last phase left.

    Raises:
      UnrecoverableError: a level is full or never learnt by day, or a night cannot be learnt; the
        phases before are saved.
      ValueError: no checkpoint of those in `workdir` is whole.
      Preempted: the run was asked to stop.
    """
    config, kept = experiment.config.to_dict(), experiment.config.checkpoint
    with (
        MetricWriter(workdir, is_writer=jax.process_index() == 0) as writer,
        PhaseCheckpoints(f"{workdir}/checkpoints", kept.keep) as saved,
        PhaseCheckpoints(f"{workdir}/mid_phase", keep=2) as under_way,
        Compilations() as compilations,
        profile or contextlib.nullcontext(),
    ):
        state, steps = init_run_state(experiment), [*enumerate(experiment.steps)]
        if (latest := saved.latest()) is not None:
            arrays, record = saved.restore(latest[0], state.arrays)
            state = RunState(**arrays, record=record["run"])
            steps = _left(experiment.steps, state.record["phases"], latest[0])
        for index, step in steps:
            writer.restart(step.label)
            compiled = compilations.count
            mid_phase = MidPhaseCheckpoint(
                under_way, step.label, kept.updates, watch, finished=saved
            )
            timer = StepTimer(experiment.cfg, step.label, profile)
            heeded = None if step.phase in RESUMABLE else watch
            logger = PhaseLogger(writer, step.label, quiet, mid_phase, timer, heeded, time_estimate)
            state = PHASES[step.phase](experiment, state, logger, step)
            is_studied = (
                step.phase == "study" and "skipped" not in state.record["phases"][step.label]
            )
            if time_estimate is not None and is_studied:
                time_estimate.add_study(mid_phase.seconds)
            cost = {"seconds": mid_phase.seconds, "memory": memory()["memory_peak"]}
            state = state.note(step.label, **cost, programs=compilations.count - compiled)
            record = {"config": config, "base": experiment.base, "reading": experiment.reading}
            record["run"] = state.record
            under_way.wait()  # one at a time: in several processes the barriers of both would mix
            saved.save(index, step.label, state=state.arrays, record=record)
            make_room_for_programs()
            if watch is not None and watch.should_stop():
                saved.wait()
                raise Preempted(step.label)
        saved.wait()
        under_way.clear()
    if state.current.wake is not None:
        check_updates(experiment.cfg.memory, state.current.wake)
    return state


def _left(steps: Sequence[Step], finished: Collection[str], last: int) -> list[tuple[int, Step]]:
    """The steps after those that are finished, each with the index of its checkpoint.

    With another `memory.on_full` than the run began with there are more merges in the order of its
    steps, or fewer, than there were: indices go on from the last checkpoint all the same, and no
    random number is drawn twice.

    Args:
      steps: all of the run, as its config has it now.
      finished: labels of those that are.
      last: index of the last checkpoint.
    """
    done = max(i for i, step in enumerate(steps) if step.label in finished)
    shift = last - done
    return [
        (i + shift, dataclasses.replace(step, number=step.number + max(shift, 0)))
        for i, step in enumerate(steps)
        if i > done
    ]
