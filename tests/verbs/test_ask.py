"""Asking a run: the replies of its model, of the one before, with the document, and the slots."""

import io
import json
import shutil
import types

import numpy as np
import pytest

from sleep_jax.evals.recall import greedy_replies
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.verbs.main import main

QUESTION = "Who built the lighthouse?"


def ask(run, *words, capsys):
    assert main(["ask", str(run.workdir), "--max-tokens=6", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def replies_of(run, state, prompts):
    e = run.experiment
    return greedy_replies(
        e.cfg, state.variables(e.params), e.tokenizer, prompts, max_new_tokens=6, batch=1
    )


def test_ask_gives_the_greedy_replies_of_the_run(three_days, capsys):
    prompts = [three_days.experiment.prompts.without_context(q) for q in (QUESTION, "Where?")]
    [first, second] = ask(three_days, QUESTION, "Where?", "--before", capsys=capsys)
    by_name = {reply["of"]: reply["text"] for reply in first["replies"]}
    now, base = three_days.states[-1], three_days.states[-1].without_memory()
    assert list(by_name) == ["before sleep", "after sleep"]
    assert by_name["after sleep"] == replies_of(three_days, now, prompts[:1])[0]
    assert by_name["before sleep"] == replies_of(three_days, base, prompts[:1])[0]
    assert by_name["after sleep"] != by_name["before sleep"]
    assert second["replies"][1]["text"] == replies_of(three_days, now, prompts[1:])[0]


def test_ask_of_an_earlier_phase(three_days, capsys):
    [answer] = ask(three_days, QUESTION, "--phase=evaluate", capsys=capsys)
    prompt = three_days.experiment.prompts.without_context(QUESTION)
    assert answer["replies"][0]["text"] == replies_of(three_days, three_days.states[0], [prompt])[0]


def test_ask_with_context_has_the_closest_document_in_view(three_days, capsys):
    [answer] = ask(three_days, QUESTION, "--context", capsys=capsys)
    reply = answer["replies"][-1]
    assert reply["of"] == "in context" and "Lighthouse" in reply["document"]
    wrong = ["ask", str(three_days.workdir), QUESTION, "--context", "--document=Kiln"]
    assert main(wrong) == 2
    assert "--document='Kiln': no title contains this" in capsys.readouterr().err


def test_ask_names_the_slots_that_spoke_and_their_days(three_days, capsys):
    [answer] = ask(three_days, QUESTION, "--slots", capsys=capsys)
    rows = answer["slots"]
    assert sorted((row["level"], row["slot"], row["days"]) for row in rows) == [
        (1, 0, [1]), (1, 1, [2]), (1, 2, [3]),
    ]  # fmt: skip
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert [row["norm"] for row in rows] == sorted((row["norm"] for row in rows), reverse=True)
    assert {row["documents"][0] for row in rows} == {"Page 1", "Page 2", "Page 3"}


def test_zeroed_slot_does_not_speak(three_days, tmp_path, capsys):
    shutil.copytree(three_days.workdir, tmp_path, dirs_exist_ok=True)
    assert main(["forget", str(tmp_path), "--day=2"]) == 0
    capsys.readouterr()
    assert main(["ask", str(tmp_path), QUESTION, "--slots", "--json", "--max-tokens=6"]) == 0
    [answer] = json.loads(capsys.readouterr().out)
    assert sorted(row["slot"] for row in answer["slots"]) == [0, 2]


def test_ask_which_low_rank_terms_spoke_is_refused(monkeypatch, capsys):
    memory = MemoryConfig((LevelConfig(),), expert="lora")
    saved = types.SimpleNamespace(cfg=types.SimpleNamespace(memory=memory))
    monkeypatch.setattr("sleep_jax.verbs.speaking.load_saved_run", lambda *_: saved)
    assert main(["ask", "a run", QUESTION, "--slots"]) == 2
    assert "memory.expert='lora' acts within the FFN" in capsys.readouterr().err


def test_ask_reads_questions_from_stdin_and_prints_them_with_the_replies(
    three_days, capsys, monkeypatch
):
    monkeypatch.setattr("sys.stdin", io.StringIO("One?\n\nTwo?\n"))
    assert main(["ask", str(three_days.workdir), "--max-tokens=3", "--slots"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("One?\n  after sleep ") and "\nTwo?\n" in shown
    assert shown.count("Which slots spoke") == 2


def test_sampled_replies_depend_on_the_seed_alone(three_days, capsys):
    def text(seed):
        words = ("--temperature=1", "--max-tokens=20", f"--seed={seed}")
        return ask(three_days, QUESTION, *words, capsys=capsys)[0]["replies"][0]["text"]

    assert text(1) == text(1) != text(2)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--temperature=-1", "Who?"], "sampling.temperature=-1.0; it must lie in [0, inf]"),
        (["--phase=nap", "Who?"], "has no checkpoint of phase 'nap'; there is wake, consolidate"),
        (["--document=Kiln", "Who?"], "give --context as well"),
    ],
)
def test_ask_of_what_is_not_there_says_so(three_days, capsys, words, error):
    assert main(["ask", str(three_days.workdir), *words]) == 2
    assert error in capsys.readouterr().err


def test_ask_of_a_run_without_a_night(tmp_path, three_days, capsys):
    assert main(["ask", str(tmp_path), "Who?"]) == 2
    assert "no run in" in capsys.readouterr().err
    folder = tmp_path / "checkpoints"
    shutil.copytree(three_days.workdir / "checkpoints" / "0", folder / "0")
    assert main(["ask", str(tmp_path), "Who?"]) == 2
    assert "no night has ended yet (the last phase is wake)" in capsys.readouterr().err


def test_ask_of_another_base_is_refused(three_days, tmp_path, capsys, monkeypatch):
    from sleep_jax.verbs import saved_run

    monkeypatch.setattr(saved_run, "fingerprint", lambda params: "other")
    assert main(["ask", str(three_days.workdir), "Who?"]) == 2
    assert "has the weights other, but the run" in capsys.readouterr().err


def test_speaker_yields_whole_characters(three_days):
    from sleep_jax.verbs.speaking import Speaker

    tokenizer = three_days.experiment.tokenizer
    speaker = object.__new__(Speaker)
    speaker.saved = three_days.experiment  # its tokenizer is all that is needed
    ids = tokenizer.encode(" caf\u00e9 au lait")
    pieces = [*speaker.text(ids)]
    assert "".join(pieces) == "caf\u00e9 au lait" and len(pieces) > 5
    assert not any("\ufffd" in piece for piece in pieces)
    assert np.all([len(piece) <= 2 for piece in pieces])
