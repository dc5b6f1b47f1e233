"""Several processes, one run: when and how `jax.distributed` is started.

an address is given           by flags, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
                              JAX_PROCESS_ID: with that address
srun started several tasks    JAX reads the rest from Slurm
TPU runtime is installed      JAX asks the TPU VM or GKE which worker this is; elsewhere not started
else                          not started: a single process
"""

import importlib.util
import os
import re
import secrets
from collections.abc import Mapping

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

VARIABLES = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}


def join_processes(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> bool:
    """Joins the other processes of the run, if there are any; call it before any other use of JAX.

    Args:
      coordinator: `host:port` of process 0; None takes it from the environment, as for the others.
      num_processes: how many processes there are.
      process_id: index of this process, from 0.

    Returns:
      Whether `jax.distributed` was started; this process must not be restarted then.

    Raises:
      ValueError: the address is incomplete or malformed; names what is missing.
    """
    given = {
        "coordinator": coordinator, "num_processes": num_processes, "process_id": process_id,
    }  # fmt: skip
    if address := explicit_address(given, os.environ):
        # For CPUs; accelerators have their own.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(*address)
        return True
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        jax.distributed.initialize()
        return True
    if "SLURM_JOB_ID" in os.environ or importlib.util.find_spec("libtpu") is None:
        return False
    try:
        jax.distributed.initialize()
    except ValueError:  # JAX finds no cluster: libtpu is installed, but there is no TPU
        return False
    return True


def explicit_address(
    given: Mapping[str, str | int | None], environment: Mapping[str, str]
) -> tuple[str, int, int] | None:
    """(coordinator, number of processes, index) from flags, else the environment; None without.

    Raises:
      ValueError: some of the three are missing or malformed, or the index is out of range.
    """
    values = {
        name: environment.get(variable) if given[name] is None else given[name]
        for name, variable in VARIABLES.items()
    }
    if all(value is None for value in values.values()):
        return None
    if missing := [name for name, value in values.items() if value is None]:
        name = missing[0]
        raise ValueError(
            f"--{name}: missing; a run of several processes needs all of --coordinator, "
            f"--num_processes and --process_id (or {VARIABLES[name]})"
        )
    count, index = (_whole(name, values[name]) for name in ("num_processes", "process_id"))
    if not 0 <= index < count:
        raise ValueError(
            f"--process_id={index}: with --num_processes={count} it is 0 to {count - 1}"
        )
    if not re.fullmatch(r".+:\d+", values["coordinator"]):
        raise ValueError(f"--coordinator={values['coordinator']}: give HOST:PORT of process 0")
    return values["coordinator"], count, index


def check_shared(workdir: str) -> None:
    """Checks that all processes of a run see the same workdir.

    Raises:
      ValueError: they do not, e.g. because it is on the disk of each machine.
    """
    if jax.process_count() == 1:
        return
    number = multihost_utils.broadcast_one_to_all(np.uint32(secrets.randbits(32)))
    probe = epath.Path(workdir) / f".shared-{int(number)}"
    if jax.process_index() == 0:
        probe.write_text("sleep")
    multihost_utils.sync_global_devices("shared workdir: written")
    seen = multihost_utils.process_allgather(np.array([probe.exists()]))
    if jax.process_index() == 0:
        probe.unlink()
    if not seen.all():
        raise ValueError(
            f"workdir={workdir!r} is not shared: {seen.size - int(seen.sum())} of {seen.size} "
            "processes do not see what process 0 writes there; give a directory that all machines "
            "mount, or an address, with --workdir=gs://BUCKET/RUN"
        )


def _whole(name: str, value: str | int) -> int:
    """A number from a flag or its environment variable.

    Raises:
      ValueError: the variable is not a whole number.
    """
    try:
        return int(value)
    except ValueError:
        raise ValueError(
            f"{VARIABLES[name]}={value!r}: expected a whole number; set it to one, or give --{name}"
        ) from None
