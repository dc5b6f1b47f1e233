"""Wake reading: its arms, nights and report, on a random base."""

import jax
import numpy as np
import pytest

from sleep_jax.interop.tiny import tiny_model

EXPERIMENT = "wake_reading"
MODULES = ("figures", "run", "nights")
TEXT = np.random.default_rng(0).integers(97, 110, 3000).tolist()


def a_run(arm, losses, rate=None):
    facts = {"text": "novel", "start": 0, "anchors": [40.0, 42.0]}
    return facts | {"arm": arm, "rate": rate, "losses": losses}


def test_table_has_the_last_quarter_less_no_learning(lab):
    runs = [a_run("none", [4.0, 3.0, 3.0, 3.0]), a_run("adam", [4.0, 3.0, 2.5, 2.25], 0.01)]
    lines = lab.figures.table(runs).splitlines()
    assert lines[2] == ("| novel, 0 | none | 4.000 | 3.000 | 3.000 | 3.000 | +0.000 | +5.0% |")
    assert "| adam, 0.01 |" in lines[3] and "| 2.250 | -0.750 |" in lines[3]


def test_report_is_drawn(lab, tmp_path):
    runs = [a_run("none", [4.0, 3.0] * 4), a_run("muon", [4.0, 2.0] * 4, 0.01)]
    lab.figures.report(runs, tmp_path, publish=False)
    assert (tmp_path / "reading.png").exists()


def test_nights_table_has_the_share_of_the_gain_that_was_kept(lab):
    losses = {"before": 3.0, "cleared": 4.0, "after": 3.25}
    night = {"levels": "1 -> 2", "read": losses, "next": losses, "anchors": 41.0, "window": 1}
    base = {"anchors": 40.0, "read_1": 4.0, "next_1": 4.0}
    lines = lab.nights.table({"base": base, "nights": [night]}).splitlines()
    assert lines[2] == "| 1 -> 2 | what was read | -1.000 | +0.000 | -0.750 | 75% | +2.5% |"


@pytest.mark.parametrize("arm", ["none", "muon"])
@pytest.mark.slow
def test_arm_reads_and_learns(lab, arm):
    loaded = tiny_model(dtype="float32", memory=lab.run.memory_of("none", 0.0, 4))
    notes = []
    lab.run.read_text(loaded, arm, 0.1, 4, TEXT[:1000], 0, notes.append)
    [last] = notes
    assert last["is_done"] and len(last["losses"]) == 4
    before, after = last["anchors"]
    assert (before == after) == (arm == "none")


@pytest.mark.slow
def test_nights_hand_up_from_level_to_level(lab):
    nights = lab.nights
    memory = nights.memory_of("adam", 0.1, 500)
    loaded = tiny_model(dtype="float32", memory=memory)
    reader = nights.Reader(loaded, memory, 0)
    before = jax.tree.map(np.array, reader.params)
    for end in (500, 1000):
        reader.read(TEXT[end - 500 : end])
        for sender in nights.due(memory, end):
            night = reader.sleep(sender, TEXT[:end], 6, {"read": TEXT[:end]})
            assert night["kl_after"] < night["kl_before"]
            assert night["read"]["before"] < night["read"]["cleared"]
    jax.tree.map(np.testing.assert_array_equal, reader.params, before)
