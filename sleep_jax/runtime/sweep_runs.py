"""The runs of a sweep: each an ordinary run with a command line and a workdir of its own.

They run one after the other, each in a process of its own. One process would load the base model
once, which takes seconds; but what a run leaves in memory (arrays, compiled programs, counters of
modules) would be there for the next, and a run that is killed would take the others with it.
Compiled programs are shared all the same, by JAX's cache on disk.
"""

import dataclasses
import os
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from sleep_jax.runtime import sweep
from sleep_jax.runtime.flags import fields, function_of, is_node, load, parse
from sleep_jax.runtime.progress import clock, table
from sleep_jax.runtime.report import report_path

DONE, FINISHED, FAILED = "done", "finished before", "failed"


@dataclasses.dataclass(frozen=True)
class Run:
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


def runs_of(argument: str, config: ml_collections.ConfigDict, workdir: str) -> list[Run]:
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
    runs: dict[str, Run] = {}
    for element in elements:
        if element.name in runs:
            raise ValueError(f"{argument}: two elements are called {element.name!r}; name them")
        if taken := common.keys() & element.settings.keys():
            raise ValueError(f"--{min(taken)}: {argument} sets it itself; change it there")
        overrides = _flags({**common, **element.settings})
        own = str(pathlib.Path(workdir) / element.name)
        arguments = (f"--config={argument}", *overrides, f"--workdir={own}")
        changed, _ = parse(("launch.py", *arguments))
        runs[element.name] = Run(element, arguments, changed, own)
    if not runs:
        raise ValueError(f"{argument}: get_sweep() returned no element")
    return list(runs.values())


def run_all(runs: Sequence[Run], launch: str) -> list[Run]:
    """Runs what is not finished, one after the other, and says how each ended.

    Args:
      runs: of one sweep.
      launch: path of the launch script.

    Returns:
      Those that failed; they have not kept the others from running.
    """
    cache = str(pathlib.Path(runs[0].workdir).parent / "programs")
    environment = {"JAX_COMPILATION_CACHE_DIR": os.path.abspath(cache)} | os.environ
    rows, failed = [], []
    for number, run in enumerate(runs, start=1):
        start = time.monotonic()
        state = FINISHED
        if not run.is_finished:
            print(f"\n{number}/{len(runs)} {run.element.name}", flush=True)
            command = [sys.executable, launch, *run.arguments]
            status = subprocess.run(command, env=environment, check=False).returncode
            state = f"{FAILED} ({status})" if status else DONE
            failed += [run] * bool(status)
        rows.append((run.element.name, state, clock(time.monotonic() - start)))
    table("Runs of the sweep", ("run", "", "time"), rows)
    return failed


def _flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the command line takes them."""
    said = {name: str(x).lower() if isinstance(x, bool) else x for name, x in settings.items()}
    return [f"--{name}={value}" for name, value in said.items()]
