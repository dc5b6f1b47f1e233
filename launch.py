"""The one entry point: `python launch.py --config=configs/sleep_smollm2.py`."""

from absl import flags

from sleep_jax import lifecycle, morning
from sleep_jax.config import memory_config
from sleep_jax.memory.schedule import describe, plan
from sleep_jax.runtime.allocator import keep_freed_memory
from sleep_jax.runtime.checkpoints import PhaseCheckpoints, check_same_config, check_writable
from sleep_jax.runtime.distributed import join_processes
from sleep_jax.runtime.flags import run_with_config
from sleep_jax.runtime.report import write_report
from sleep_jax.sleeper import wake_up

PLAN = flags.DEFINE_integer(
    "plan", None, "print when each level sleeps in a stream this long (in memory.unit), and end"
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, for a run of several processes"
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many processes there are")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "which one of them this is, from 0")
ABOUT = (
    "Lets a language model read documents, puts it to sleep, and shows what it knows afterwards "
    "without them. The same command goes on after the last finished phase."
)
EXAMPLES = (
    "python launch.py --config=configs/sleep_smollm2.py",
    "python launch.py --config=configs/sleep_smollm2.py --config.data.documents=my_notes.txt",
    "python launch.py --config=configs/ladder.py --plan=50000",
    "python launch.py --config=configs/sleep_tiny.py --workdir=/tmp/tiny",
)


def prepare(config, workdir):
    """Checks the directory, the run in it, the documents and the model, before any long work."""
    if PLAN.value is not None:
        return memory_config(config), PLAN.value
    if not join_processes(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value):
        keep_freed_memory()
    check_writable(workdir)
    with PhaseCheckpoints(f"{workdir}/checkpoints") as saved:
        if (latest := saved.latest()) is not None:
            check_same_config(saved.record(latest[0])["config"], config.to_dict(), workdir)
    return wake_up(config), workdir


def work(planned):
    """Lives the days and nights and reports, or prints the plan of them."""
    if PLAN.value is not None:
        return print("\n".join(describe(*planned, plan(*planned))))
    sleeper, workdir = planned
    summary = morning.summarise(sleeper, lifecycle.live(sleeper, workdir))
    morning.show(summary)
    print(f"report: {write_report(workdir, summary)}")


if __name__ == "__main__":
    run_with_config(prepare, work, about=ABOUT, examples=EXAMPLES)
