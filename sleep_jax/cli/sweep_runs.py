"""The runs of a sweep: each is an ordinary run with a command line and a workdir of its own.

They run one after the other, each in its own process. A single process would load the base model
once, which takes seconds; but what a run leaves in memory (arrays, compiled programs, state of
modules) would affect the next one, and a run that is killed would end the others. Compiled programs
are shared through JAX's cache on disk. A SIGTERM is passed to the current run; once that has saved
its checkpoint and ended, the sweep ends with the same status.
"""

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from etils import epath

from sleep_jax.addresses import is_remote
from sleep_jax.cli import sweep
from sleep_jax.cli.config_files import fields, function_of, is_node, load
from sleep_jax.cli.flags import parse
from sleep_jax.runtime.preemption import STATUS, Preempted
from sleep_jax.runtime.progress import clock, table
from sleep_jax.runtime.workdir import report_path

DONE, FINISHED, FAILED, STOPPED = "done", "finished before", "failed", "preempted"


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """One element of a sweep, ready to run.

    Attributes:
      element: the fields that it changes.
      arguments: of the launch script: config file, overrides, workdir.
      config: the config that they make.
      workdir: of this run.
    """

    element: sweep.Element
    arguments: tuple[str, ...]
    config: ml_collections.ConfigDict
    workdir: str

    @property
    def command(self) -> str:
        """The command that runs it alone."""
        return shlex.join(("python", "launch.py", *self.arguments))

    @property
    def is_finished(self) -> bool:
        """Whether its report exists, the last file that a run writes."""
        return report_path(self.workdir).exists()


def runs_of(argument: str, config: ml_collections.ConfigDict, workdir: str) -> list[SweepRun]:
    """The runs of a sweep file.

    Args:
      argument: the file, as `--sweep` or `--config` names it.
      config: what the runs have in common: the config of the file with its overrides.
      workdir: of the sweep; every run has a folder in it.

    Raises:
      ValueError: an element sets a field that does not exist (names the nearest one), sets a value
        of the wrong type, or sets a field that is overridden in `config`; or two elements have the
        same name.
    """
    elements = function_of(argument, "get_sweep")(sweep)
    defaults = fields(load(argument))
    common = {
        f"config.{name}": value
        for name, value in fields(config).items()
        if not is_node(value) and value != defaults[name]
    }
    runs: dict[str, SweepRun] = {}
    for element in elements:
        if element.name in runs:
            raise ValueError(f"{argument}: two elements are called {element.name!r}; rename one")
        if swept := common.keys() & element.settings.keys():
            raise ValueError(f"--{min(swept)}: {argument} sets it itself; change it there")
        overrides = _flags({**common, **element.settings})
        run_workdir = str(epath.Path(workdir) / element.name)
        arguments = (f"--config={argument}", *overrides, f"--workdir={run_workdir}")
        run_config, _ = parse(("launch.py", *arguments))
        runs[element.name] = SweepRun(element, arguments, run_config, run_workdir)
    if not runs:
        raise ValueError(f"{argument}: get_sweep() returned no element")
    return list(runs.values())


def run_all(runs: Sequence[SweepRun], launch: str) -> list[SweepRun]:
    """Runs whatever is not finished, one after the other, and prints how each ended.

    Args:
      runs: of one sweep.
      launch: path of the launch script.

    Returns:
      The runs that failed; the others ran all the same.

    Raises:
      Preempted: the sweep or its current run got SIGTERM; no further run was started.
    """
    environment = {"JAX_COMPILATION_CACHE_DIR": str(_programs_folder(runs[0].workdir))} | os.environ
    rows, failed = [], []
    with _Relay() as relay:
        for number, run in enumerate(runs, start=1):
            start, status = time.monotonic(), None
            if not run.is_finished:
                print(f"\n{number}/{len(runs)} {run.element.name}", flush=True)
                status = relay.run([sys.executable, launch, *run.arguments], environment)
            is_stopped = relay.should_stop or status == STATUS
            state = _state(status, is_stopped)
            rows.append((run.element.name, state, clock(time.monotonic() - start)))
            if is_stopped:
                break
            failed += [run] * bool(status)
    table("Runs of the sweep", ("run", "", "time"), rows)
    if is_stopped:
        raise Preempted(run.element.name)
    return failed


def _state(status: int | None, is_stopped: bool) -> str:
    """What the table says of a run by its exit status; None: it had finished before."""
    if not status:
        return FINISHED if status is None else DONE
    return STOPPED if is_stopped else f"{FAILED} ({status})"


class _Relay:
    """Runs commands one after the other; a context manager. It passes a SIGTERM of this process on
    to the running command, so that none is left behind.

    Attributes:
      should_stop: whether there was a SIGTERM.
    """

    def __init__(self):
        self.should_stop = False
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "_Relay":
        self._previous_handler = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGTERM, self._previous_handler)

    def _terminate(self, *_) -> None:
        self.should_stop = True
        if self._process is not None:
            self._process.terminate()

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Exit status of a command."""
        self._process = subprocess.Popen(command, env=environment)
        if self.should_stop:  # the signal came while the command was being started
            self._process.terminate()
        try:
            return self._process.wait()
        except KeyboardInterrupt:
            self._process.terminate()
            self._process.wait()
            raise


def _programs_folder(workdir: str) -> epath.Path:
    """Where compiled programs are kept: next to the runs, also in a bucket."""
    path = epath.Path(workdir if is_remote(workdir) else os.path.abspath(workdir))
    return path.parent / "programs"


def _flags(settings: Mapping[str, Any]) -> list[str]:
    """Fields as flags of the command line."""
    values = {name: str(x).lower() if isinstance(x, bool) else x for name, x in settings.items()}
    return [f"--{name}={value}" for name, value in values.items()]
