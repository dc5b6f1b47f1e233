"""The runs of a sweep: each an ordinary run with a command line and a workdir of its own.

They run one after the other, each in a process of its own. One process would load the base model
once, which takes seconds; but what a run leaves in memory (arrays, compiled programs, counters of
modules) would be there for the next, and a run that is killed would take the others with it.
Compiled programs are shared all the same, by JAX's cache on disk. A SIGTERM reaches the run that is
on; when that has kept its place the sweep ends as the run does.
"""

import dataclasses
import os
import pathlib
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
from sleep_jax.interop.resolve import cache_folder
from sleep_jax.runtime.preemption import STATUS, Preempted
from sleep_jax.runtime.progress import clock, table
from sleep_jax.runtime.workdir import report_path

DONE, FINISHED, FAILED, STOPPED = "done", "finished before", "failed", "asked to stop"


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """One element of a sweep, ready to run.

    Attributes:
      element: what it changes.
      arguments: of the launch script: config file, overrides, workdir.
      config: what these amount to.
      workdir: of this run alone.
    """

    element: sweep.Element
    arguments: tuple[str, ...]
    config: ml_collections.ConfigDict
    workdir: str

    @property
    def command(self) -> str:
        """What a person would type to run it alone."""
        return shlex.join(("python", "launch.py", *self.arguments))

    @property
    def is_finished(self) -> bool:
        """Its report, the last thing that a run writes, is there."""
        return report_path(self.workdir).exists()


def runs_of(argument: str, config: ml_collections.ConfigDict, workdir: str) -> list[SweepRun]:
    """The runs of a sweep file.

    Args:
      argument: the file, as `--sweep` or `--config` names it.
      config: what they have in common: that of the file, perhaps with fields changed.
      workdir: of the sweep; every run has a folder in it.

    Raises:
      ValueError: an element sets a field that does not exist (names the nearest), a value that it
        cannot have, or one that `config` has changed as well; or two elements are called alike.
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
            raise ValueError(f"{argument}: two elements are called {element.name!r}; name them")
        if taken := common.keys() & element.settings.keys():
            raise ValueError(f"--{min(taken)}: {argument} sets it itself; change it there")
        overrides = _flags({**common, **element.settings})
        own = str(epath.Path(workdir) / element.name)
        arguments = (f"--config={argument}", *overrides, f"--workdir={own}")
        changed, _ = parse(("launch.py", *arguments))
        runs[element.name] = SweepRun(element, arguments, changed, own)
    if not runs:
        raise ValueError(f"{argument}: get_sweep() returned no element")
    return list(runs.values())


def run_all(runs: Sequence[SweepRun], launch: str) -> list[SweepRun]:
    """Runs what is not finished, one after the other, and says how each ended.

    Args:
      runs: of one sweep.
      launch: path of the launch script.

    Returns:
      Those that failed; they have not kept the others from running.

    Raises:
      Preempted: the sweep, or the run that was on, was asked to stop; no further one was begun.
    """
    environment = {"JAX_COMPILATION_CACHE_DIR": str(_programs(runs[0].workdir))} | os.environ
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
    """What the table says of a run that ended so; None of one that was not begun."""
    if not status:
        return FINISHED if status is None else DONE
    return STOPPED if is_stopped else f"{FAILED} ({status})"


class _Relay:
    """Runs commands one after the other; a context manager. A SIGTERM that this process gets
    meanwhile is passed on to the one that runs, so that none is left behind.

    Attributes:
      should_stop: there was one.
    """

    def __init__(self):
        self.should_stop = False
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "_Relay":
        self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _ask(self, *_) -> None:
        self.should_stop = True
        if self._process is not None:
            self._process.terminate()

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """The status that a command ends with."""
        self._process = subprocess.Popen(command, env=environment)
        if self.should_stop:  # while it was being started
            self._process.terminate()
        try:
            return self._process.wait()
        except KeyboardInterrupt:
            self._process.terminate()
            self._process.wait()
            raise


def _programs(workdir: str) -> pathlib.Path:
    """Where the runs of a sweep share compiled programs: beside them, or on this machine."""
    if is_remote(workdir):
        return cache_folder() / "programs"
    return pathlib.Path(workdir).absolute().parent / "programs"


def _flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the command line takes them."""
    said = {name: str(x).lower() if isinstance(x, bool) else x for name, x in settings.items()}
    return [f"--{name}={value}" for name, value in said.items()]
