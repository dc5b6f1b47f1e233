import json
import re
import sys

import numpy as np
import pytest

from sleep_jax.inspect.tables import sparkline
from sleep_jax.verbs.main import main


def test_overview_is_plain_text_without_a_terminal(finished, capsys):
    assert main(["inspect", str(finished)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{finished}: finished, 4 phases\n")
    assert "\x1b" not in shown
    assert "Level 1: 1 of 2 slots in use" in shown and "Level 2: 0 of 3 slots" in shown
    assert "Who built it?" in shown and "levels 0 -> 1, kl after 0.25" in shown
    assert "█▃▁" in shown  # the divergence, falling


@pytest.mark.parametrize("question", ["timeline", "slots", "curves", "scores", "samples", "leaves"])
def test_every_question_has_table_and_json(finished, capsys, question):
    assert main(["inspect", str(finished), question]) == 0
    assert capsys.readouterr().out.count("\n") > 2
    assert main(["inspect", str(finished), question, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[question]


def test_json_has_null_for_an_unused_slot(finished, capsys):
    main(["inspect", str(finished), "slots", "--phase", "consolidate", "--json"])
    fast = json.loads(capsys.readouterr().out)["slots"][0]
    assert fast["norms"]["down"] == [[2.0, None]] * 3


def test_changes_and_diff_are_shown(finished, unfinished, capsys):
    assert main(["inspect", str(finished), "changes", "consolidate", "learn"]) == 0
    line = next(x for x in capsys.readouterr().out.split("\n") if "level_1.experts.down" in x)
    assert line.split() == ["memory.layers.level_1.experts.down", "changed", "0.25", "48", "0"]
    main(["inspect", str(finished), "diff", str(unfinished)])
    assert capsys.readouterr().out == "seed: 0 -> 1\n"
    main(["inspect", str(finished), "diff", str(finished)])
    assert capsys.readouterr().out == "no difference\n"


def test_restore_writes_one_slot_to_a_file(finished, states, tmp_path, capsys):
    file = tmp_path / "slot.npz"
    name = "current.memory.layers.level_1.experts"
    assert (
        main(["inspect", str(finished), "restore", name, str(file), "--slot=0", "--phase=learn"])
        == 0
    )
    saved, bank = np.load(file), states[2].memory["layers"]["level_1"]["experts"]
    assert set(saved) == {f"{name}.{leaf}" for leaf in bank}
    np.testing.assert_array_equal(saved[f"{name}.down"], bank["down"][:, 0])
    assert f"{name}.down float32[3, 2, 8] -> {file}" in capsys.readouterr().out


def test_verify_finds_a_damaged_file(unfinished, capsys):
    assert main(["inspect", str(unfinished), "verify"]) == 0
    record = unfinished / "checkpoints" / "1" / "record" / "metadata"
    record.write_bytes(record.read_bytes().replace(b"0.25", b"0.26"))
    with pytest.raises(SystemExit, match="1"):
        main(["inspect", str(unfinished), "verify"])
    assert "record/metadata is damaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/nowhere"], "error: no run in /nowhere"),
        (["{run}", "slots", "--phase=nap"], "error: {run} has no checkpoint of phase 'nap'"),
        (["{run}", "changes", "wake"], "changes has to be followed by BEFORE AFTER"),
        (["{run}", "sleep"], "no question 'sleep'; choose from all, timeline"),
        (
            ["{run}", "restore", "x", "y.npz"],
            "holds no 'x'; there is before_dreams, before_sleep, current",
        ),
    ],
)
def test_wrong_arguments_end_in_one_line_with_status_2(finished, capsys, arguments, words):
    try:
        status = main(["inspect", *(x.format(run=finished) for x in arguments)])
    except SystemExit as end:
        status = end.code
    shown = capsys.readouterr().err
    assert status == 2 and words.format(run=finished) in shown and "Traceback" not in shown


def test_sparkline_scales_values_to_blocks():
    assert sparkline([0, 1, float("nan"), 7]) == "▁▂ █"
    assert sparkline([3, 3]) == "▁▁"
    assert sparkline([]) == sparkline([float("nan")]) == ""
    assert sparkline(range(720)) == sparkline(range(36))


def test_overview_wraps_no_word_at_80_columns(finished, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["inspect", str(finished)]) == 0
    tables = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).partition("Days and")[2]
    assert max(map(len, tables.splitlines())) <= 80
    for word in ("consolidate", "questions", "morning", "tokens/s", "programs", "detail"):
        assert word in tables


def test_scores_show_verdict_shares_and_ceiling(finished, capsys):
    assert main(["inspect", str(finished), "scores"]) == 0
    shown = capsys.readouterr().out
    assert " ".join(shown.split()).startswith(
        "Kept. Closed book: questions 50 % -> 50 %. Open book, the ceiling: questions 50 %."
    )
    assert "with the document in context (the ceiling)        50 %" in shown
