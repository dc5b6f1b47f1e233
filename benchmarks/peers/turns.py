"""A runner's end of a comparison: it does one step on request, and times it.

A runner is a process of its own, in the environment of what it measures. It is given a spec, JSON
in its only argument; each line on its standard input asks for one step, each line of JSON on its
standard output answers for one. The standard library is all that this needs.
"""

import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace


def resident() -> int:
    """Peak resident bytes of this process."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Turns:
    """Waits for requests, and times each step.

    All other output goes to standard error: standard output is for the answers. `is_warm`
    says that a step was done; the first one is not measured and need only compile.
    """

    def __init__(self, *packages: str, peak: Callable[[], int] | None = None):
        """`packages`: whose versions go into the answers; `peak`: gives the peak bytes of a device
        with a memory of its own; None: those of the process.
        """
        self.spec = SimpleNamespace(**json.loads(sys.argv[1]))
        self._versions = {name: importlib.metadata.version(name) for name in packages}
        self._peak = peak or resident
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._begun = None
        self._phases: dict[str, float] = {}
        self.is_warm = False

    def next(self) -> bool:
        """Ends the current step, if there is one, and waits for the next request; False: none."""
        if self._begun is not None:
            answer = {
                "seconds": time.perf_counter() - self._begun,
                "phases": self._phases,
                "peak_bytes": self._peak(),
                "versions": self._versions,
            }
            print(json.dumps(answer), file=self._answers, flush=True)
            self.is_warm = True
        is_requested = bool(sys.stdin.readline())
        self._phases, self._begun = {}, time.perf_counter()
        return is_requested

    def serve(self, step) -> None:
        """Does `step`, a function without arguments, at each request."""
        while self.next():
            step()

    def timed(self, phase: str, function, wait=lambda result: result):
        """`function`, its calls counted into a phase; `wait` is given what it returns and comes
        back when that is computed.
        """

        def run(*args, **kwargs):
            start = time.perf_counter()
            result = wait(function(*args, **kwargs))
            taken = time.perf_counter() - start
            self._phases[phase] = self._phases.get(phase, 0.0) + taken
            return result

        return run
