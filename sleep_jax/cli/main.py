"""What `launch.py` does: one run, a sweep of runs, or what a run would do."""

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
from absl import flags
from etils import epath

from sleep_jax import lifecycle
from sleep_jax.addresses import raising_store_errors, store_error
from sleep_jax.cli.errors import exit_status
from sleep_jax.cli.flags import run_with_config
from sleep_jax.cli.sweep_runs import SweepRun, run_all, runs_of
from sleep_jax.config import RunConfig, read
from sleep_jax.continuation import KnownRun, known_run
from sleep_jax.errors import UnrecoverableError
from sleep_jax.experiment import Experiment, load_experiment
from sleep_jax.forecast import aot
from sleep_jax.forecast.programs import programs_of
from sleep_jax.forecast.run_plan import RunPlan
from sleep_jax.forecast.timing import TimeEstimate
from sleep_jax.memory.schedule import describe, plan
from sleep_jax.report import comparison, comparison_chart
from sleep_jax.report.html_report import write_report
from sleep_jax.report.summary import show_summary, summarise
from sleep_jax.run_schedule import phases_left
from sleep_jax.runtime.allocator import keep_freed_memory
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.runtime.compiled_programs import keep_compiled_programs
from sleep_jax.runtime.distributed import check_shared, join_processes
from sleep_jax.runtime.mesh import make_mesh, mesh_line, use_mesh
from sleep_jax.runtime.preemption import Preempted, Watch
from sleep_jax.runtime.profile import Profile
from sleep_jax.runtime.progress import printable, say
from sleep_jax.runtime.workdir import (
    check_same_base,
    check_same_config,
    check_same_reading,
    check_writable,
)
from sleep_jax.settings import every
from sleep_jax.slot_plan import slots_in_use

# `--help` lists flags by the script that is run.
_integer, _string, _boolean = (
    functools.partial(define, module_name=sys.argv[0])
    for define in (flags.DEFINE_integer, flags.DEFINE_string, flags.DEFINE_boolean)
)
PLAN = _integer(
    "plan", None, "print when each level sleeps in a stream this long (in memory.unit), and end"
)
SWEEP = _string(
    "sweep", None, "run every element of a sweep file, one after the other, and compare them"
)
SWEEP_PRINT = _boolean("sweep_print", False, "with --sweep: print one command an element, and end")
COORDINATOR = _string("coordinator", None, "HOST:PORT of process 0, for a run of several processes")
NUM_PROCESSES = _integer("num_processes", None, "how many processes there are")
PROCESS_ID = _integer("process_id", None, "which one of them this is, from 0")
AOT = _string(
    "aot",
    None,
    "compile every program for a TPU slice, e.g. v5e:4x4 (or v5litepod-16, as launch/tpu_vm.sh has "
    "it), without one, and end; with status 1 where one does not fit",
)
DRY_RUN = _boolean(
    "dry_run",
    False,
    "read the documents, say what a run would hold and do, time a few steps here, and end",
)
CONTINUE = _string(
    "continue",
    None,
    "give the run in this directory more days, in place of --config and --workdir: its own config "
    "holds but for fields given now, and --config.data.documents is read on new days; without it, "
    "finish what was stopped",
)
PROFILE = _string(
    "profile", None, "trace these updates of a phase into WORKDIR/profile, e.g. consolidate:3-5"
)
ABOUT = (
    "Lets a language model read documents, puts it to sleep, and shows what it knows afterwards "
    "without them. Run the same command again to resume; --continue=RUN gives a run more days."
)
EXAMPLES = (
    "python launch.py --config=configs/sleep_smollm2.py",
    "python launch.py --config=configs/sleep_smollm2.py --config.data.documents=my_notes.txt",
    "python launch.py --continue=runs/sleep_smollm2 --config.data.documents=next_week/",
    "python launch.py --config=configs/ladder.py --plan=50000",
    "python launch.py --config=configs/sleep_tiny.py --workdir=/tmp/tiny",
    "python launch.py --config=configs/sleep_tiny.py --profile=consolidate:2-3",
    "python launch.py --config=configs/seeding_8b.py --dry_run",
    "python launch.py --config=configs/seeding_8b.py --aot=v5e:4x4",
    "python launch.py --sweep=configs/sweeps/seeding_ablation.py",
)

# What a command may do in place of a run; each of these excludes the others and the flags of a run.
INSTEAD_OF_A_RUN = ({"sweep"}, {"plan"}, {"aot", "dry_run"})
ABOUT_THE_RUN = (
    *(PLAN, SWEEP, AOT, DRY_RUN, PROFILE, CONTINUE),
    *(COORDINATOR, NUM_PROCESSES, PROCESS_ID),
)


def prepare(config, workdir) -> Callable[[], None]:
    """Checks all that can be wrong before any long work, and returns that work."""
    check_flags()
    if PLAN.value is not None:
        return functools.partial(show_level_plan, read(config).memory, PLAN.value)
    if SWEEP.value is not None:
        return prepare_sweep(SWEEP.value, config, workdir)
    known = None if CONTINUE.value is None else known_run(workdir)
    if AOT.value or DRY_RUN.value:
        forecast = aot.forecast(config, AOT.value, DRY_RUN.value, workdir, known)
        return functools.partial(show, forecast)
    read(config)  # a mistake is reported before anything is begun
    if not join_processes(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value):
        keep_freed_memory()
    use_mesh(config)
    keep_compiled_programs(workdir)
    watch = Watch()
    with raising_store_errors(workdir):
        if known is None:
            record = check_workdir(config, workdir)
        else:
            check_writable(workdir)
        check_shared(workdir)
    profile = None
    if PROFILE.value is not None:
        profile = Profile.of(PROFILE.value, updates_of(config), workdir)
    if known is None:
        experiment = load_experiment(config)
        check_same_base(record.get("base", {}), experiment.base, workdir)
        check_same_reading(record.get("reading"), experiment.reading, workdir)
    else:
        experiment = known.with_days(config)
    if profile is not None:
        updates = updates_of(config)
        profile.check_phase([x.label for x in experiment.schedule if x.phase in updates])
    is_first = jax.process_index() == 0  # it speaks for all
    if known and is_first:
        say(*known.lines(config, len(experiment.days), experiment.source))
    time_estimate = show_run_plan(experiment, workdir, known) if is_first else None
    return functools.partial(run_and_report, experiment, workdir, watch, profile, time_estimate)


def check_flags() -> None:
    """Refuses flags that would be ignored.

    Raises:
      ValueError: naming the flag and what to do.
    """
    if SWEEP_PRINT.value and SWEEP.value is None:
        raise ValueError("--sweep_print: of which sweep? Give --sweep=FILE in place of --config")
    if PLAN.value is not None and PLAN.value < 0:
        raise ValueError(f"--plan={PLAN.value}: how long is the stream? Give 0 or more")
    if AOT.value == "":
        raise ValueError("--aot=: for which slice? Give one, e.g. --aot=v5e:4x4")
    given = {flag.name for flag in ABOUT_THE_RUN if flag.value != flag.default}
    for names in INSTEAD_OF_A_RUN:
        others = given - names - ({"continue"} if "dry_run" in names else set())
        if not (given & names and others):
            continue
        if "sweep" in names:
            raise ValueError(
                f"--{min(others)}: is for one run, not for --sweep; add it to one of the commands "
                "that --sweep_print prints"
            )
        raise ValueError(
            f"--{min(others)}: --{min(given & names)} makes no run; leave out one of the two"
        )


def updates_of(config) -> dict[str, int]:
    """How many updates a phase has, for every phase that has some."""
    updates = {"consolidate": read(config).seeding.most_steps, "learn": config.dreaming.steps}
    return {phase: count for phase, count in updates.items() if count}


def prepare_sweep(file: str, config, workdir: str) -> Callable[[], None]:
    """The same for all runs of a sweep."""
    runs = runs_of(file, config, workdir)
    for run in runs:
        read(run.config)
    if SWEEP_PRINT.value:
        return functools.partial(print, "\n".join(run.command for run in runs))
    with raising_store_errors(workdir):
        check_writable(workdir)
        for run in runs:
            if epath.Path(run.workdir).exists():
                check_workdir(run.config, run.workdir, is_under_way=not run.is_finished)
    return functools.partial(sweep, runs, epath.Path(workdir))


def check_workdir(config, workdir: str, is_under_way: bool = True) -> dict[str, Any]:
    """Checks that a run can be written there, or resumed, and returns its record; {} of a new one.
    `is_under_way` as for `check_same_config`.
    """
    check_writable(workdir)
    if not (checkpoints := epath.Path(workdir) / "checkpoints").exists():
        return {}  # Orbax would make it, though the run may yet be refused
    with PhaseCheckpoints(checkpoints) as saved:
        latest = saved.latest()
        record = {} if latest is None else saved.record(latest[0])
    if record:
        changes = check_same_config(record["config"], config.to_dict(), workdir, is_under_way)
        say(*(f"from here on {change}" for change in changes))
    return record


def show_level_plan(memory, length: int) -> None:
    """Prints when each level would sleep."""
    print("\n".join(describe(memory, length, plan(memory, length))))


def show(lines: Iterable[str]) -> None:
    """Prints lines as they come; ends with status 1 where they say that a program does not fit."""
    try:
        for line in lines:
            print(line, flush=True)
    except aot.DoesNotFit:
        raise SystemExit(1) from None


def run_and_report(
    experiment: Experiment,
    workdir: str,
    watch: Watch,
    profile: Profile | None = None,
    time_estimate: TimeEstimate | None = None,
) -> None:
    """Runs the days and nights, and reports."""
    try:
        with answering_store(workdir):
            state = lifecycle.run(
                experiment, workdir, watch=watch, profile=profile, time_estimate=time_estimate
            )
    except Preempted as stopped:
        print(f"preempted after {stopped.where}; run the same command to resume")
        raise
    except UnrecoverableError as error:
        print(f"error: {error}. What came before is saved in {workdir}", file=sys.stderr)
        raise SystemExit(2) from None
    if jax.process_index():
        return  # process 0 reports for all
    if profile is not None:
        none = "none, these updates were not made in this attempt"
        print(f"profile: {profile.folder if profile.state == 'written' else none}")
    summary = summarise(experiment, state)
    show_summary(summary)
    with answering_store(workdir):
        print(f"report: {write_report(workdir, summary)}")


@contextlib.contextmanager
def answering_store(workdir: str) -> Iterator[None]:
    """Ends with a plain message where the store that a run lies in stops answering."""
    try:
        yield
    except Exception as error:
        if (plain := store_error(error, workdir)) is None:
            raise
        print(f"error: {plain}", file=sys.stderr)
        raise SystemExit(exit_status(plain)) from None


def show_run_plan(
    experiment: Experiment, workdir: str, known: KnownRun | None = None
) -> TimeEstimate | None:
    """Says what the run will do, or what is left of one that is continued, and warns of what may
    surprise. How long it will take is said later, by the estimate that this returns; None where no
    night learns anything.
    """
    phases = known.phases if known else {}
    if not (left := phases_left(experiment.schedule, phases)):
        return None
    plan = RunPlan.of(
        experiment.config,
        experiment.cfg,
        experiment.source,
        experiment.days,
        experiment.tokenizer.encode,
        left,
        slots_used=slots_in_use(experiment.schedule, experiment.memories, phases),
    )
    if jax.device_count() > 1:
        say(f"{jax.device_count()} devices: {mesh_line(experiment.config, jax.device_count())}")
    say(*plan.lines())
    for warning in plan.warnings(workdir):
        warnings.warn(warning, stacklevel=2)
    if not plan.nights:
        return None
    programs = programs_of(experiment.config, make_mesh(experiment.config), plan.sizes)
    return TimeEstimate(programs, experiment.cfg, len(plan.days), say, plan.seedings)


def sweep(runs: list[SweepRun], workdir: epath.Path) -> None:
    """Runs a sweep and compares what is finished; ends with status 1 where a run failed."""
    try:
        with answering_store(str(workdir)):
            failed = run_all(runs, sys.argv[0])
    except Preempted as stopped:
        print(f"preempted in {stopped.where}; run the same command to resume")
        raise
    with answering_store(str(workdir)):
        if any(run.is_finished for run in runs):
            compared = comparison.compare(runs)
            text = comparison.report(compared)
            (workdir / "comparison.md").write_text(printable(f"{text}\n"), encoding="utf-8")
            comparison_chart.draw(compared, workdir / "comparison")
            print(f"\n{text}\n\ncomparison: {workdir / 'comparison.md'}")
    if failed:
        raise SystemExit(1)


def main() -> None:
    """Does what the command line asks for."""
    run_with_config(
        prepare, lambda work: work(), about=ABOUT, examples=EXAMPLES, settings=every(RunConfig)
    )
