"""Forgetting: the newest day gives back the memory before it, an earlier one is zeroed."""

import re
import shutil

import numpy as np
import pytest
from tiny_run import equal
from written_run import Life

from sleep_jax.inspect import Checkpoint, Run
from sleep_jax.lifecycle import _remaining
from sleep_jax.memory.slots import take_slot
from sleep_jax.report import run_record
from sleep_jax.run_schedule import run_schedule
from sleep_jax.verbs.main import main

WHOLE = ("current", "before_sleep", "before_dreams")


def arrays(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return {name: checkpoint.read(name) for name in checkpoint.leaves()}


def table(text: str) -> dict[str, tuple[str, ...]]:
    """{day: (before, after)} of what `forget` prints."""
    rows = re.findall(r"^ *day (\d)   +(\d of \d)   +(\d of \d)", text, re.MULTILINE)
    return {day: (before, after) for day, before, after in rows}


def test_forgetting_the_newest_day_gives_back_the_memory_before_it_bit_for_bit(life, capsys):
    workdir, _ = life
    assert main(["forget", str(workdir), "--day=3"]) == 0
    shown = capsys.readouterr().out
    assert "day 3 (Page 3): taken back; the memory is as after evaluate-2, bit for bit" in shown
    run = Run(workdir)
    before, after = arrays(run["evaluate-2"]), arrays(run["forget"])
    assert before.keys() == after.keys()
    assert all(before[x].tobytes() == after[x].tobytes() for x in before)
    known = table(shown)
    assert known["3"][0] == "2 of 2" and known["3"][1] != "2 of 2"
    assert (
        run.record["days"][2]["forgotten"] == "taken back" and "slot" not in run.record["days"][2]
    )


def test_forgetting_all_days_gives_back_the_initial_memory(life, three_days):
    workdir, _ = life
    assert main(["forget", str(workdir), "--day=1,2,3"]) == 0
    run = Run(workdir)
    first, last = arrays(run["wake"]), arrays(run["forget"])
    assert all(np.array_equal(first[x], last[x]) for x in first)


def test_forgetting_an_earlier_day_zeroes_its_slot_and_nothing_else(life, capsys):
    workdir, states = life
    assert main(["forget", str(workdir), "--day=1"]) == 0
    shown = capsys.readouterr().out
    assert "day 1 (Page 1): slot 0 of level 1 is zeroed" in shown
    current = Run(workdir)["forget"].restore("current")
    for slot, is_zeroed in enumerate((True, False, False)):
        now, then = take_slot(current["memory"], 1, slot), take_slot(states[2].memory, 1, slot)
        assert not is_zeroed or not np.any(now["down"])
        assert equal({**now, "down": 0}, {**then, "down": 0})
        assert is_zeroed or np.array_equal(now["down"], then["down"])
    assert equal(current["slots"], states[2].slots)
    assert table(shown)["3"][0] == "2 of 2"


def test_newest_day_is_taken_back_without_waking_a_zeroed_one(life):
    workdir, states = life
    for day in ("1", "3", "2"):
        assert main(["forget", str(workdir), f"--day={day}"]) == 0
    run = Run(workdir)
    last = run["forget-3"].restore("current")
    assert not np.any(take_slot(last["memory"], 1, 0)["down"])
    assert equal(last["slots"], states[0].slots)
    zeroed = take_slot(last["memory"], 1, 1)
    assert equal(zeroed, take_slot(states[0].memory, 1, 1))
    assert [day["forgotten"] for day in run.record["days"]] == [
        "zeroed",
        "taken back",
        "taken back",
    ]


def test_undo_removes_the_last_forget(life, capsys):
    workdir, _ = life
    main(["forget", str(workdir), "--day=2"])
    main(["forget", str(workdir), "--day=1"])
    assert main(["forget", str(workdir), "--undo"]) == 0
    assert (
        "day 1 is no longer forgotten: the run is again as after forget" in capsys.readouterr().out
    )
    assert Run(workdir).latest.phase == "forget"
    assert main(["forget", str(workdir), "--undo"]) == 0
    assert main(["forget", str(workdir), "--undo"]) == 2
    assert "nothing to undo, the last phase is evaluate-3" in capsys.readouterr().err


def test_dry_run_writes_nothing(life, capsys):
    workdir, _ = life
    assert main(["forget", str(workdir), "--day=1", "--dry_run"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert Run(workdir).latest.phase == "evaluate-3"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--day=4"], "day 4: there is no such day; there are days 1 to 3"),
        (["--day=two"], "--day=two: give numbers from 1"),
        ([], "give either --day=N or --undo"),
        (["--day=1", "--undo"], "give either --day=N or --undo"),
    ],
)
def test_forget_of_what_cannot_be_done_says_so(three_days, capsys, words, error):
    assert main(["forget", str(three_days.workdir), *words]) == 2
    assert error in capsys.readouterr().err


def test_forget_of_a_forgotten_day_is_refused(life, capsys):
    workdir, _ = life
    main(["forget", str(workdir), "--day=2"])
    assert main(["forget", str(workdir), "--day=2"]) == 2
    assert "day 2 is forgotten already (zeroed)" in capsys.readouterr().err


def test_timeline_and_verdict_show_what_was_forgotten(life):
    workdir, _ = life
    main(["forget", str(workdir), "--day=2"])
    run = Run(workdir)
    row = run.timeline()[-1]
    assert (row["phase"], row["day"], row["hour"]) == ("forget", 3, "morning")
    assert "zeroed 2" in row["detail"] and "kept after" in row["detail"]
    assert run_record.verdict_now(run.record) == "kept; day 2 was forgotten since"


def test_newest_day_is_zeroed_where_the_checkpoint_before_it_was_removed(life, capsys):
    workdir, states = life
    for index in range(8):
        shutil.rmtree(workdir / "checkpoints" / str(index))
    assert main(["forget", str(workdir), "--day=3"]) == 0
    shown = capsys.readouterr().out
    assert "slot 2 of level 1 is zeroed" in shown and "is not at hand" in shown
    current = Run(workdir)["forget"].restore("current")
    assert not np.any(take_slot(current["memory"], 1, 2)["down"])
    assert equal(current["slots"], states[2].slots)


def test_forget_while_a_day_is_under_way_is_refused(tmp_path, capsys):
    life = Life(tmp_path).live(1)
    life.phase("wake-2", tokens=4)
    assert main(["forget", str(tmp_path), "--day=1"]) == 2
    assert "a day is under way (the last phase is wake-2)" in capsys.readouterr().err


def test_run_goes_on_after_a_day_was_forgotten(life, three_days):
    workdir, _ = life
    main(["forget", str(workdir), "--day=1"])
    run, memory = Run(workdir), three_days.experiment.cfg.memory
    schedule = run_schedule(memory, [4] * 4, dreams=False)
    schedule = [x for x in schedule if x.phase != "study"]  # as `Life` writes it
    remaining = _remaining(schedule, run.record["phases"], run.latest.index)
    assert [(i, x.label) for i, x in remaining] == [
        (10, "wake-4"), (11, "consolidate-4"), (12, "evaluate-4"),
    ]  # fmt: skip
