import shutil
import time

import pytest

from sleep_jax.inspect import Run, difference
from sleep_jax.report.run_record import recall, samples, timeline, verdict
from sleep_jax.runtime.metrics import MetricWriter


def test_timeline_has_hours_and_slots_in_use(finished):
    rows = Run(finished).timeline()
    assert [(r["index"], r["phase"], r["day"], r["hour"]) for r in rows] == [
        (0, "wake", 1, "day"),
        (1, "consolidate", 1, "night"),
        (2, "learn", 1, "night"),
        (3, "evaluate", 1, "morning"),
    ]
    assert [r["slots"][1] for r in rows] == [(0, 2), (1, 2), (1, 2), (1, 2)]
    assert rows[1]["detail"] == "levels 0 -> 1, kl after 0.25"


def test_timeline_counts_a_day_after_its_evaluation():
    labels = ("wake", "consolidate", "wake-2", "consolidate-2", "evaluate", "wake-3")
    rows = timeline({"phases": {label: {"tokens": 0, "seconds": 1.0} for label in labels}})
    assert [row["day"] for row in rows] == [1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ({"wake": {}, "study": {}}, ""),
        ({"consolidate": {"kl_after": 0.1}}, "kept"),
        ({"consolidate": {"rolled_back": "too costly"}}, "rolled back: too costly"),
        ({"consolidate": {"skipped": "level 1 is full"}}, "skipped: level 1 is full"),
        (
            {"consolidate": {}, "learn": {"rolled_back": "anchors"}},
            "kept, but for its dreams: anchors",
        ),
        ({"consolidate": {"rolled_back": "x"}, "consolidate-2": {}}, "kept"),
    ],
)
def test_verdict_is_of_the_last_night(phases, expected):
    assert verdict({"phases": phases}) == expected


def test_headline_of_a_run_has_verdict_and_ceiling(finished):
    assert Run(finished).headline() == (
        "Kept. Closed book: questions 50 % -> 50 %. Open book, the ceiling: questions 50 %."
    )


def test_run_finds_a_phase_by_name_and_index(finished):
    run = Run(finished)
    assert run["learn"] == run[2] == run["2"] == run[-2] == run["-2"]
    assert run.latest == run[-1] and run.latest.phase == "evaluate"
    with pytest.raises(KeyError, match="'nap'; there is wake, consolidate, learn, evaluate"):
        run["nap"]
    with pytest.raises(KeyError):
        run[-9]


def test_curves_are_of_the_metrics(finished):
    assert Run(finished).curves() == {
        "consolidate": {
            "kl_off": [(0, 2.0), (1, 1.0), (2, 0.5)],
            "reward": [(0, 0.0), (1, 0.25), (2, 0.5)],
        }
    }
    assert set(Run(finished).curves(["loss"])["consolidate"]) == {"loss"}


def test_samples_begin_with_what_was_learnt(finished):
    first, second = Run(finished).samples()
    assert first == {
        "document": "The Lighthouse",
        "question": "Who built it?",
        "answer": "Odrin",
        "before": "Velmora did.",
        "after": "Odrin.",
        "before_right": False,
        "after_right": True,
    }
    assert second["before_right"] and second["after_right"]


def test_samples_without_scores_are_not_marked_right():
    asked = [{"document": "d", "question": "q", "answers": ["a"]}]
    replies = {"before sleep": ["x"], "after dreaming": ["y"]}
    rows = samples({"asked": asked, "replies": replies, "scores": {"before sleep": {}}})
    assert rows == [{"document": "d", "question": "q", "answer": "a", "before": "x", "after": "y"}]
    assert samples({"study": {}}) == []


def test_recall_leaves_out_days_without_questions():
    days = [{"recall": [{"questions": 1.0}]}, {"recall": [{"questions": 0.5}, {"questions": 0.0}]}]
    assert recall({"days": [*days, {}]}) == [[1.0], [0.5, 0.0]]
    assert recall({"days": days[:1]}) == []
    assert recall({"days": [{"recall": [{}]}, {"recall": [{}, {}]}]}) == []


def test_state_of_an_unfinished_run_says_where_it_is(finished, unfinished):
    assert Run(finished).state() == f"{finished}: finished, 4 phases"
    damaged = shutil.copytree(finished, finished.with_name("damaged"))
    for digests in damaged.glob("checkpoints/*/digests.json"):
        digests.write_text("garbage")
    assert Run(damaged).state() == f"{damaged}: finished, but no checkpoint of it is valid"
    assert (
        Run(unfinished).state() == f"{unfinished}: unfinished, 2 phases done, the last consolidate"
    )
    with MetricWriter(unfinished) as writer:
        writer.scalars("learn", 7, {"loss": 1.0})
    assert "the last consolidate; in learn, step 7, 0 s ago" in Run(unfinished).state()


@pytest.mark.parametrize("name", ["digests.json", "state/_METADATA"])
def test_run_skips_and_names_an_incomplete_checkpoint(unfinished, name):
    (unfinished / "checkpoints" / "1" / name).unlink()
    run = Run(unfinished)
    assert run.latest.phase == "wake" and run.record["phases"].keys() == {"wake"}
    assert len(run.problems) == 1 and "checkpoints/1: " in run.problems[0]
    (unfinished / "checkpoints" / "0" / "digests.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no valid checkpoint yet \(checkpoint .*/0: "):
        _ = Run(unfinished).latest


def test_run_of_a_directory_without_one_names_runs_nearby(unfinished, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such directory"):
        Run(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=rf"neither .* there are {unfinished}"):
        Run(tmp_path)


def test_run_without_checkpoints(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.scalars("wake", 0, {"kl": 1.0})
    run = Run(tmp_path)
    assert run.state().startswith(f"{tmp_path}: unfinished, 0 phases done; in wake, step 0")
    assert run.curves() == {"wake": {"kl": [(0, 1.0)]}}
    assert run.metrics[0]["time"] <= time.time()
    with pytest.raises(FileNotFoundError, match="no phase has been finished"):
        _ = run.config


def test_difference_lists_other_settings(finished, unfinished):
    assert difference(Run(finished), Run(unfinished)) == ["seed: 0 -> 1"]
    assert difference(Run(finished), Run(finished)) == []
