"""Runs side by side, by hand."""

import json
import math

import pytest

from sleep_jax.cli.sweep import Element
from sleep_jax.cli.sweep_runs import SweepRun
from sleep_jax.phases.evaluate import STAGES
from sleep_jax.report import comparison, comparison_chart
from sleep_jax.report.comparison import (
    Comparison,
    at_the_end,
    at_the_start,
    cell,
    difference,
    interval,
    open_book,
)


def write_metrics(workdir, lines):
    workdir.mkdir(exist_ok=True)
    text = "".join(json.dumps({"time": 0, **line}) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text)


def stage(phase, step, questions, anchors=None):
    figures = {"questions": questions, "paraphrases": questions / 2}
    anchors = {"anchor_perplexity": anchors, "chat_perplexity": 2 * anchors} if anchors else {}
    return {"phase": phase, "step": step, **figures, **anchors}


def night(phase, before, after):
    measured = {"held_out_kl_before": before, "held_out_kl_after": after}
    return {"phase": phase, "step": 9, **measured, "accepted": float(after < before / 2)}


def two_nights(workdir, shift=0.0, after=0.7):
    """Two days without dreams: no stage 2."""
    first = {"day_1_questions": 0.5, "day_1_paraphrases": 0.2}
    both = {
        "day_1_questions": 0.4,
        "day_1_paraphrases": 0.1,
        "day_2_questions": 0.6 + shift,
        "day_2_paraphrases": 0.3,
    }
    lines = [
        night("consolidate", 2.0, 0.5),
        stage("evaluate", 0, 0.0, 30.0),
        stage("evaluate", 1, 0.5, 31.0),
        stage("evaluate", 3, 0.8),
        {"phase": "evaluate", "step": 4, **first},
        night("consolidate-2", 4.0, after),
        stage("evaluate-2", 0, 0.1, 31.0),
        stage("evaluate-2", 1, 0.6 + shift, 33.0),
        stage("evaluate-2", 3, 0.9),
        {"phase": "evaluate-2", "step": 4, **both},
    ]
    write_metrics(workdir, lines)
    return workdir


def test_at_the_start_and_at_the_end_give_the_figures_of_a_run(tmp_path):
    workdir = two_nights(tmp_path)
    assert at_the_end(workdir) == pytest.approx(
        {
            "questions": 0.5,
            "paraphrases": 0.2,
            "earlier": 0.4,
            "anchor_perplexity": 33.0,
            "chat_perplexity": 66.0,
            "divergence": 0.6,
        }
    )
    assert at_the_start(workdir) == {
        "questions": 0.0,
        "paraphrases": 0.0,
        "anchor_perplexity": 30.0,
        "chat_perplexity": 60.0,
        "divergence": 2.0,
    }
    assert list(comparison.scores(workdir)) == [STAGES[0], STAGES[1], STAGES[3]]
    assert open_book(workdir) == pytest.approx({"questions": 0.85, "paraphrases": 0.425})
    compared = Comparison({"full": {0: at_the_end(workdir)}}, {}, ceiling={"questions": 0.85})
    last = comparison.table(compared).splitlines()[-1]
    assert last.startswith("| open book (the ceiling) |  | 85 % |  |")


def test_open_book_scores_have_names_of_their_own(tmp_path):
    workdir = two_nights(tmp_path)
    lines = comparison.read_metrics(workdir)
    for line in lines:
        if line["step"] == 3:
            line["open_book_questions"] = line.pop("questions")
    write_metrics(workdir, lines)
    assert comparison.scores(workdir)[STAGES[3]]["questions"] == 0.9


def test_report_begins_with_rolled_back_nights(tmp_path):
    compared = Comparison({"full": {0: {"questions": 0.5}}}, {}, rolled_back={"seed=1": 2})
    assert comparison.report(compared).startswith("Nights that the gate rolled back: seed=1 (2).")


def test_at_the_end_of_a_single_day_and_of_one_without_questions(tmp_path):
    lines = [stage("evaluate", i, 0.1 * i, 30.0 + i) for i in range(3)]
    lines += [stage("evaluate", 3, 0.9), {"phase": "evaluate", "step": 4, "day_1_questions": 0.2}]
    write_metrics(tmp_path, lines)
    assert at_the_end(tmp_path) == {
        "questions": 0.2,
        "anchor_perplexity": 32.0,
        "chat_perplexity": 64.0,
    }
    anchors = [{"phase": "evaluate", "step": i, "anchor_perplexity": 9, "chat_perplexity": "inf"}
               for i in range(3)]  # fmt: skip
    write_metrics(tmp_path, [*anchors, *({"phase": "evaluate", "step": step} for step in (3, 4))])
    assert at_the_end(tmp_path) == {"anchor_perplexity": 9.0, "chat_perplexity": math.inf}


def test_scores_of_an_unfinished_run_are_refused(tmp_path):
    write_metrics(tmp_path, [stage("evaluate", 0, 0.0, 30.0)])
    with pytest.raises(ValueError, match="has no scores with the document in context; finish the"):
        at_the_end(tmp_path)


def test_interval_is_of_students_t():
    # Mean 2, standard deviation 1, n = 3; t(0.975, 2) = 4.3027: 2 -+ 4.3027 / sqrt(3).
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((-0.4841, 4.4841), abs=1e-3)
    assert interval([2.0, 2.0]) == (2.0, 2.0)
    assert all(map(math.isnan, interval([2.0])))


def test_cell_gives_mean_spread_and_values():
    assert cell("questions", [0.4, 0.5, 0.6]) == "50 % (40, 50, 60)"
    assert cell("questions", [0.4, 0.5, 0.6], True) == "50 % ± 10 (40, 50, 60)"
    assert cell("anchor_perplexity", [35.5, 35.5]) == "35.50" and cell("questions", []) == ""
    assert difference("questions", [0.01, 0.02, 0.03]) == "+2 [-0, 4]"
    assert difference("divergence", [-0.5]) == "-0.50"
    assert difference("divergence", []) == ""


def test_differences_pair_common_seeds():
    first = {0: {"questions": 0.5}, 1: {"questions": 0.1}, 2: {"questions": 0.9}}
    second = {1: {"questions": 0.2}, 0: {"questions": 0.6}}
    compared = Comparison({"full": first, "less": second}, {"questions": 0.0}, ("less,seed=2",))
    table, note, less, missing = comparison.report(compared).split("\n\n")
    assert "| before the first night |  | 0 % |" in table
    assert "| full | 3 | 50 % ± 40 (50, 10, 90) |" in table
    assert "95 % t intervals" in note
    assert "| less | 2 | +10 [10, 10] |" in less
    assert missing == "Not finished: less,seed=2."


def test_differences_leave_out_a_figure_that_one_run_lacks():
    compared = Comparison({"full": {0: {"earlier": 0.5}}, "one day": {0: {}}}, {}, ())
    assert "| one day | 1 |  |" in comparison.differences(compared)


def test_compare_reads_a_sweep_and_lists_missing_runs(tmp_path):
    runs = [
        SweepRun(Element({"config.seed": seed}, (word,)), (), None, str(tmp_path / f"{word}{seed}"))
        for word in ("full", "less")
        for seed in (0, 1)
    ]
    with pytest.raises(ValueError, match="no run of this sweep is finished"):
        comparison.compare(runs)
    for run, shift, after in zip(runs[:3], (0.0, 0.2, 0.1), (0.7, 0.7, 2.5)):
        two_nights(tmp_path / run.workdir, shift, after)
        (tmp_path / run.workdir / "report.html").write_text("done")
    compared = comparison.compare(runs)
    assert list(compared.variants["full"]) == [0, 1] and list(compared.variants["less"]) == [0]
    assert compared.missing == ("less,seed=1",)
    assert compared.rolled_back == {"less,seed=0": 1}
    assert "gate rolled back: less,seed=0 (1)." in comparison.report(compared)
    assert compared.before["anchor_perplexity"] == 30.0
    assert "| less | 1 | +5 |" in comparison.differences(compared)
    comparison_chart.draw(compared, tmp_path / "comparison")
    drawn = (tmp_path / "comparison.svg").read_text()
    assert "<svg" in drawn and (tmp_path / "comparison.png").stat().st_size > 1000
