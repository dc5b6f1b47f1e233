"""A life of five days, given in five calls and killed ten times, ends with the bits of one call.

Each day's documents are there for its own command alone.
"""

import functools
import random
import time

import pytest
from test_faults import (
    assert_same_end,
    end_of,
    launched,
    launched_in_two_processes,
    printed,
    survives,
)

from sleep_jax.days import read_days
from sleep_jax.inspect.run import Run

pytestmark = pytest.mark.slow

DAYS, KILLS = 5, 10
# Short nights, which merge the slots and dream of earlier days.
SETTINGS = (
    "--config=configs/sleep_tiny.py",
    "--config.checkpoint.save_interval_steps=1",
    "--config.memory.slots=(3,)",
    "--config.memory.on_full=merge",
)
WITHOUT_DREAMS = "--config.dreaming.steps=0"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("life")


def at_once(workdir, *more):
    """The command that gives all days."""
    flags = ("--config.data.documents=samples:5", f"--config.data.episodes={DAYS}")
    return (*SETTINGS, *more, *flags, f"--workdir={workdir}")


def command_of(workdir, day, *more):
    """The command that gives a day, from 1."""
    documents = f"--config.data.documents=samples:{day}-{day}"
    if day == 1:
        return (*SETTINGS, *more, documents, f"--workdir={workdir}")
    return (f"--continue={workdir}", documents)


def finished(workdir):
    """How many phases of a run have their checkpoint."""
    return len([*workdir.glob("checkpoints/*/digests.json")])


def finish(*processes):
    for process in processes:
        assert process.wait() == 0, printed(process)[-3000:]


def test_life_in_five_calls_with_kills_ends_with_the_bits_of_one_call(home):
    finish(launched(home, *at_once(home / "at_once")))
    want, phases = end_of(home / "at_once"), Run(home / "at_once").record["phases"]
    assert "skipped" not in phases["merge-2"] and phases["learn-5"].get("learnt")
    moment, workdir, kills = random.Random(0), home / "day_by_day", 0
    for day in range(1, DAYS + 1):
        before = finished(workdir)
        for over in sorted(moment.sample(range(7), KILLS // DAYS)):  # phases of the day
            process = launched(home, *command_of(workdir, day))
            is_there = functools.partial(lambda n: finished(workdir) >= n, before + over)
            assert not survives(process, 3600, is_there), printed(process)[-3000:]
            time.sleep(moment.uniform(0, 0.5 if over else 15))  # while it starts, or works
            process.kill()
            process.wait()
            kills += 1
        finish(launched(home, *command_of(workdir, day)))  # the same command again
        assert len(read_days(workdir)) == day and Run(workdir).is_finished
    assert kills == KILLS
    assert_same_end(workdir, want)


def test_life_in_two_processes_ends_with_the_bits_of_one_call(home):
    finish(*launched_in_two_processes(home, *at_once(home / "pair_at_once", WITHOUT_DREAMS)))
    workdir = home / "pair"
    for day in range(1, DAYS + 1):
        command = command_of(workdir, day, WITHOUT_DREAMS)
        finish(*launched_in_two_processes(home, *command))
    assert_same_end(workdir, end_of(home / "pair_at_once"))
