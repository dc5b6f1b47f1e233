"""A run that is killed, asked to stop, out of disk or without one of its files ends with the bits
of one that was left alone.

Six kills by default; `KILLS=50 pytest -m slow tests/test_faults.py` for more.
"""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

from sleep_jax.inspect.run import Run
from sleep_jax.models.sharding import AXES
from sleep_jax.runtime.metrics import read_metrics
from sleep_jax.runtime.preemption import STATUS

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", "6"))
# Long enough to be stopped at many an update, each of which has a place of its own.
UPDATES = (
    "--config.checkpoint.save_interval_steps=1",
    "--config.seeding.steps=12",
    "--config.seeding.steps_per_generation=1",
    "--config.dreaming.steps=8",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


def start(home, workdir, *flags, devices=1, **more):
    """The tiny run in a process of its own, which dreams and keeps its place after every update."""
    flags = ("--config=configs/sleep_tiny.py", *UPDATES, f"--workdir={workdir}", *flags)
    return launched(home, *flags, devices=devices, **more)


def launched(home, *flags, devices=1, **more):
    """launch.py with these flags in a process of its own, in which the tiny model dreams."""
    command = [sys.executable, "tests/articulate.py", *flags]
    # Programs are kept on disk: an attempt does not spend its time compiling.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(home / "programs"), "SLEEP_JAX_QUIET": "1"}
    cache["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    place = {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": os.pathsep.join(sys.path)}
    # A pipe that is not read would stop a process that fills it.
    output = tempfile.TemporaryFile("w+")  # noqa: SIM115
    streams = {"stdout": output, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, env=os.environ | cache | place, **streams, **more)
    process.output = output
    return process


def printed(process):
    """All that a process printed until it ended."""
    process.wait()
    process.output.seek(0)
    return process.output.read()


def start_two(home, workdir):
    """The same in two processes of four devices each, which split rows, weights and heads."""
    flags = ("--config=configs/sleep_tiny.py", *UPDATES, f"--workdir={workdir}")
    return launched_in_two_processes(home, *flags)


def launched_in_two_processes(home, *flags):
    """As `launched`, in two processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"--coordinator=127.0.0.1:{probe.getsockname()[1]}"
    flags = [*flags, *(f"--config.mesh.{axis}=2" for axis in AXES), address, "--num_processes=2"]
    return [launched(home, *flags, f"--process_id={i}", devices=4) for i in range(2)]


def finish(home, workdir):
    process = start(home, workdir)
    assert process.wait() == 0, printed(process)[-2000:]


def end_of(workdir):
    """(arrays, days) of a run's last checkpoint."""
    run = Run(workdir)
    last = run[-1]
    return {name: last.read(name) for name in last.leaves()}, run.record["days"]


def assert_same_end(workdir, untouched):
    arrays, days = end_of(workdir)
    assert arrays.keys() == untouched[0].keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, untouched[0][name], err_msg=name)
    assert days == untouched[1]


@pytest.fixture(scope="module")
def untouched(home):
    """The end of a run that was left alone, and the seconds that it takes once all is compiled."""
    finish(home, home / "first")
    phases = Run(home / "first").record["phases"]
    assert phases["try"]["tried"] and phases["learn"]["learnt"] and "skipped" not in phases["learn"]
    begun = time.monotonic()
    finish(home, home / "second")
    seconds = time.monotonic() - begun
    assert_same_end(home / "second", end_of(home / "first"))
    return end_of(home / "first"), seconds


def is_writing(workdir):
    """A checkpoint is half written."""
    places = (workdir / name for name in ("checkpoints", "mid_phase"))
    return any(
        "tmp" in path.name or not (path / "digests.json").exists()
        for place in places
        if place.is_dir()
        for path in place.iterdir()
    )


def is_kept(workdir, phase):
    """Whether a place within a phase is safely on disk."""
    whole = (path.parent for path in workdir.glob("mid_phase/*/digests.json"))
    with contextlib.suppress(FileNotFoundError):  # it went meanwhile
        records = [json.loads((folder / "record" / "metadata").read_text()) for folder in whole]
        return any(record["phase"] == phase for record in records)
    return False


def survives(process, seconds, until=lambda: False):
    """Whether a process ends by itself within so many seconds and before something happens."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        if process.poll() is not None:
            return True
        time.sleep(0.002)
    return False


def test_run_killed_at_random_moments_ends_with_the_same_bits(home, untouched):
    want, seconds = untouched
    moment, kills, workdir = random.Random(0), 0, home / "killed"
    while kills < KILLS:
        process = start(home, workdir)
        if kills % 2:  # as soon as it has lived for a while and writes
            ends = survives(process, moment.uniform(0, seconds))
            ends = ends or survives(process, seconds, lambda: is_writing(workdir))
        else:
            ends = survives(process, moment.uniform(0, 1.2 * seconds))
        if ends:
            assert process.returncode == 0, printed(process)[-2000:]
            assert_same_end(workdir, want)
            shutil.rmtree(workdir)
        else:
            process.kill()
            process.wait()
            kills += 1
    finish(home, workdir)
    assert_same_end(workdir, want)


def test_run_preempted_in_several_phases_ends_with_the_same_bits(home, untouched):
    workdir, saved = home / "asked", "checkpoints/*/digests.json"
    for phases in (1, 3, 6):  # are finished: it studies, dreams or learns
        process = start(home, workdir)
        assert not survives(process, 600, lambda n=phases: len([*workdir.glob(saved)]) >= n)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == STATUS, printed(process)[-2000:]
    finish(home, workdir)
    assert not any((workdir / "mid_phase").iterdir())
    assert_same_end(workdir, untouched[0])


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_run_stopped_while_it_learns_dreams_ends_with_the_same_bits(home, untouched, sent):
    workdir = home / sent.name
    process = start(home, workdir)
    assert not survives(process, 600, lambda: is_kept(workdir, "learn"))
    process.send_signal(sent)
    assert process.wait() == (STATUS if sent == signal.SIGTERM else -sent)
    assert is_kept(workdir, "learn") and "learn" not in Run(workdir).record["phases"]
    finish(home, workdir)
    assert_same_end(workdir, untouched[0])


def assert_end_to_rounding(workdir, other):
    """Losses and arrays of two runs on different meshes."""
    (arrays, _), (expected, _) = end_of(workdir), end_of(other)
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-4, err_msg=name)
    losses, expected_losses = (
        {(x["phase"], x["step"]): x["loss"] for x in read_metrics(run) if "loss" in x}
        for run in (workdir, other)
    )
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    assert {phase for phase, _ in losses} == {"consolidate", "learn"}


def test_preempting_one_of_two_processes_stops_both(home):
    for process in start_two(home, home / "pair"):
        assert process.wait() == 0, printed(process)[-2000:]
    workdir = home / "pair_asked"
    both = start_two(home, workdir)
    assert not survives(both[0], 600, lambda: is_kept(workdir, "consolidate"))
    both[1].send_signal(signal.SIGTERM)  # as a host that is about to be taken away is
    outputs = [printed(process) for process in both]
    assert [process.returncode for process in both] == [STATUS, STATUS], outputs
    places = [re.findall(r"preempted after (\d+) updates of consolidate", x) for x in outputs]
    assert places[0] == places[1] != []
    shutil.copytree(workdir, home / "alone")
    for process in start_two(home, workdir):
        assert process.wait() == 0, printed(process)[-2000:]
    assert_same_end(workdir, end_of(home / "pair"))
    finish(home, home / "alone")  # one process and one device go on where two and eight stopped
    assert_end_to_rounding(home / "alone", home / "pair")


def test_run_resumes_after_a_full_disk(home, untouched):
    workdir = home / "full"

    def no_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    process = start(home, workdir, preexec_fn=no_room)
    assert process.wait() != 0
    assert not (workdir / "report.html").exists()
    finish(home, workdir)
    assert_same_end(workdir, untouched[0])


def test_run_passes_over_a_truncated_checkpoint(home, untouched):
    workdir = home / "second"
    last = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    largest = max((f for f in last.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    process = start(home, workdir)
    output = printed(process)
    assert process.returncode == 0 and "is skipped" in output and largest.name in output
    assert_same_end(workdir, untouched[0])
