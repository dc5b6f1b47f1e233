"""Compares programs that need environments of their own: a process each, in turns.

What `timing.interleaved` is for functions, this is for runners (peers/). All have the same
allocator settings, and two at a time are running: ours and a peer's.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from timing import report

from sleep_jax.runtime.allocator import MALLOC

PEERS = Path(__file__).parent / "peers"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # processes share an accelerator


class RunnerFailed(RuntimeError):
    """A runner ended early; the message has the end of its output."""


class Runner:
    """A process that does one step on request."""

    def __init__(self, python: str, script: str, spec: dict, errors):
        """Starts `script` of peers/ under the interpreter `python`; stderr goes to `errors`."""
        self._errors = errors
        # Makes either side up to twice as fast.
        environment = os.environ | {"GLIBC_TUNABLES": MALLOC, "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [python, str(PEERS / script), json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )

    def step(self) -> dict:
        """Does one step; returns its seconds, phases, peak_bytes and versions.

        Raises:
          RunnerFailed: it ended instead.
        """
        with contextlib.suppress(BrokenPipeError):
            print("step", file=self._process.stdin, flush=True)
        if line := self._process.stdout.readline():
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        raise RunnerFailed("".join(self._errors.readlines()[-15:]))

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def runner(python: str, script: str, spec: dict) -> Iterator[Runner]:
    """A runner that ends with the block."""
    with tempfile.TemporaryFile("w+") as errors:
        running = Runner(python, script, spec, errors)
        try:
            yield running
        finally:
            running.close()


def in_turns(runners: dict[str, Runner], rounds: int) -> dict[str, dict]:
    """Steps of all runners, one after the other, round by round.

    Returns:
      By name: `first`, the seconds of the first step (compilation, warm-up), which is in no other
      figure; `seconds` of each round and its `phases`; `peak_bytes` and `versions`.
    """
    firsts = {name: running.step() for name, running in runners.items()}
    rest = {name: [] for name in runners}
    for _ in range(rounds):
        for name, running in runners.items():
            rest[name].append(running.step())
    return {
        name: {
            "first": firsts[name]["seconds"],
            "seconds": [a["seconds"] for a in answers],
            "phases": [a["phases"] for a in answers],
            "peak_bytes": answers[-1]["peak_bytes"],
            "versions": answers[-1]["versions"],
        }
        for name, answers in rest.items()
    }


def _medians(rounds: Sequence[dict[str, float]], seconds: Sequence[float]) -> dict[str, float]:
    """Median seconds of each phase, and of the rest."""
    each = [p | {"rest": total - sum(p.values())} for p, total in zip(rounds, seconds)]
    return {name: round(statistics.median(p[name] for p in each), 3) for name in each[0]}


def compare(
    title: str,
    ours: tuple[str, str, dict],
    peer: tuple[str, str, dict],
    *,
    name: str,
    rounds: int,
    **setting,
) -> None:
    """Runs two runners in turns and prints a line for time and one for memory.

    Args:
      title: what is measured.
      ours, peer: (interpreter, runner's script, spec) of each.
      name: of the peer.
      rounds: measured steps of each, after one for warm-up.
      setting: further fields of the lines.
    """
    try:
        with runner(*ours) as a, runner(*peer) as b:
            measured = in_turns({"sleep_jax": a, name: b}, rounds)
    except (OSError, RunnerFailed) as failure:
        print(f"{title} against {name}: not measured\n{failure}", file=sys.stderr)
        return
    seconds = {k: v["seconds"] for k, v in measured.items()}
    setting |= {
        "first": {k: round(v["first"], 2) for k, v in measured.items()},
        "phases": {k: _medians(v["phases"], v["seconds"]) for k, v in measured.items()},
        "versions": {k: v["versions"] for k, v in measured.items()},
        "spec": ours[2],
        "differs": {k: v for k, v in peer[2].items() if ours[2].get(k) != v},
        "rounds": rounds,
    }
    report(f"{title}, time", seconds, "sleep_jax", name, **setting)
    peak = {k: [v["peak_bytes"]] for k, v in measured.items()}
    report(f"{title}, peak bytes", peak, "sleep_jax", name, **setting)
