"""A trace of chosen updates of a phase, taken by JAX's profiler: `--profile=consolidate:3-5`."""

import pathlib
import re
from collections.abc import Collection, Iterable, Mapping

import jax

from sleep_jax.addresses import is_remote


def _no_such_phase(text: str, known: Iterable[str]) -> str:
    choices = ", ".join(known) or "none"
    return f"--profile={text}: no such phase with updates; choose from {choices}"


class Profile:
    """Traces updates `first` to `last` of a phase, once; a context manager.

    Attributes:
      folder: of the trace, `workdir/profile/<phase>-<first>-<last>`.
      state: `waiting` for the first update, `tracing`, or `written`.
    """

    def __init__(self, workdir: str, label: str, first: int, last: int):
        self._label, self._first, self._last = label, first, last
        self.folder = pathlib.Path(workdir) / "profile" / f"{label}-{first}-{last}"
        self.state = "waiting"

    @classmethod
    def of(cls, text: str, updates: Mapping[str, int], workdir: str) -> "Profile":
        """The profile that a flag asks for.

        Args:
          text: `PHASE:UPDATE` or `PHASE:FIRST-LAST`, counted from 0.
          updates: number of updates of every phase that has some.
          workdir: of the run.

        Raises:
          ValueError: there are no such updates (says which there are), or `workdir` is an address.
        """
        match = re.fullmatch(r"([\w-]+):(\d+)(?:-(\d+))?", text)
        if match is None:
            raise ValueError(f"--profile={text}: give PHASE:FIRST-LAST, e.g. consolidate:3-5")
        label, first, last = match[1], int(match[2]), int(match[3] or match[2])
        phase = re.sub(r"-\d+$", "", label)  # consolidate-2 is the second phase of its kind
        if phase not in updates:
            raise ValueError(_no_such_phase(text, updates))
        if not first <= last < updates[phase]:
            raise ValueError(
                f"--profile={text}: {phase} has updates 0 to {updates[phase] - 1}; give the first "
                "and the last of those to trace"
            )
        if is_remote(workdir):
            raise ValueError(
                f"--profile={text}: a trace is written to a directory, and --workdir={workdir} is "
                "an address; trace a run with a local one"
            )
        return cls(workdir, label, first, last)

    def check_phase(self, labels: Collection[str]) -> None:
        """Raises a ValueError if the phase to trace is not among the labels of a run's phases with
        updates.
        """
        if self._label not in labels:
            raise ValueError(_no_such_phase(self._label, labels))

    def begin(self, label: str, step: int) -> None:
        """Call before update `step` of a phase; starts the trace at the first one."""
        if self.state == "waiting" and (label, step) == (self._label, self._first):
            # JAX makes the file for Perfetto from the trace of a single process.
            is_single = jax.process_count() == 1
            jax.profiler.start_trace(self.folder, create_perfetto_trace=is_single)
            self.state = "tracing"

    def finished(self, label: str, step: int) -> None:
        """Call when update `step` has ended, also on the device; ends the trace at the last one."""
        if (label, step) == (self._label, self._last):
            self._stop()

    def _stop(self) -> None:
        if self.state == "tracing":
            jax.profiler.stop_trace()
            self.state = "written"

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()
