"""`evaluate`: scores on local tasks and on one's own, by hand, without a network."""

import json
import socket

import pytest

pytest.importorskip("lm_eval")
from slept_run import ASKED, TITLE, model_of, write_slept_run

from sleep_jax.evals.metrics import contains_answer
from sleep_jax.evals.recall import greedy_replies
from sleep_jax.export.run_model import RunModel
from sleep_jax.inspect.run import Run
from sleep_jax.interop.prompts import Prompts
from sleep_jax.tasks import task_scores
from sleep_jax.verbs.main import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the tiny model after one night."""
    return write_slept_run(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any connection is an error."""

    def refuse(*arguments, **options):
        raise AssertionError("a task connects to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def evaluated(run, capsys, *words):
    """{of: {(task, metric): score}} as JSON has them."""
    assert main(["evaluate", str(run), "--json", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    return {of: {(x["task"], x["metric"]): x for x in scores} for of, scores in found.items()}


def test_test_questions_are_scored_as_the_report_does(run, capsys, tmp_path):
    samples = tmp_path / "samples.jsonl"
    scores = evaluated(run, capsys, "--tasks=test_questions", f"--samples={samples}")
    items = [json.loads(line) for line in samples.read_text().splitlines()]
    replies = [item["resps"][0][0] for item in items]
    cfg, variables = model_of(run)
    tokenizer = RunModel.open(run).base.tokenizer
    prompts = [Prompts(tokenizer).without_context(asked["question"]) for asked in ASKED]
    expected = greedy_replies(cfg, variables, tokenizer, prompts, max_new_tokens=40)
    assert [reply.strip() for reply in replies] == expected and any(expected)
    right = [contains_answer(x, asked["answers"]) for x, asked in zip(expected, ASKED)]
    score = scores["after"]["test_questions", "right"]
    assert (score["value"], score["items"], score["is_chat"]) == (sum(right) / 2, 2, True)


def test_every_kind_of_local_task_is_measured_before_and_after(run, capsys):
    tasks = "anchors,anchor_chats,sample_documents,instructions"
    scores = evaluated(run, capsys, f"--tasks={tasks}", "--limit=3", "--before")
    before, after = scores["before"], scores["after"]
    assert before.keys() == after.keys() and {task for task, _ in after} == {*tasks.split(",")}
    anchors = after["anchors", "byte_perplexity"]
    assert anchors["value"] != before["anchors", "byte_perplexity"]["value"] > 1
    assert (anchors["is_higher_better"], anchors["is_chat"], anchors["stderr"]) == (
        False, False, None,
    )  # fmt: skip
    assert after["anchor_chats", "byte_perplexity"]["is_chat"]
    about = after["sample_documents", "acc"]
    assert about["items"] == 3 and 0 <= about["value"] <= 1 and about["stderr"] >= 0


def test_sample_documents_are_those_that_the_run_has_read(run):
    from sleep_jax.tasks.items import sample_documents

    record = Run(run).record
    assert {x["document"] for x in sample_documents(record)["test"]} == {TITLE}
    assert len({x["document"] for x in sample_documents()["test"]}) == 14
    assert len(sample_documents(run=str(run))["test"]) == 3  # as lm_eval's own command line asks
    other = {"days": [{"asked": [{"document": "My notes"}]}]}
    with pytest.raises(ValueError, match="none of the packaged documents"):
        sample_documents(other)


def test_own_questions_are_those_of_days_that_are_not_forgotten():
    from sleep_jax.tasks.items import own_questions

    day = {"study": {"held_out": [{"question": "Who?", "answer": "Odrin"}]}}
    record = {"days": [day, day | {"forgotten": "zeroed"}, {}]}
    assert [*own_questions(record)["test"]] == [{"question": "Who?", "answers": ["Odrin"]}]
    with pytest.raises(ValueError, match="no held-out questions"):
        own_questions({"days": [{}]})


def test_tasks_of_one_s_own(run, capsys, tmp_path):
    rows = [{"q": "Is ice cold?", "choices": ["yes", "no"], "label": 0}]
    (tmp_path / "ice.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "ice.yaml").write_text(
        f"""
        task: ice
        dataset_path: json
        dataset_kwargs:
          data_files: {{test: {tmp_path / "ice.jsonl"}}}
          cache_dir: {tmp_path / "cache"}
        output_type: multiple_choice
        test_split: test
        doc_to_text: "{{{{q}}}}"
        doc_to_choice: choices
        doc_to_target: label
        metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
        """
    )
    scores = evaluated(run, capsys, "--tasks=ice", f"--include_path={tmp_path}")
    assert scores["after"]["ice", "acc"]["value"] in (0.0, 1.0)
    assert (
        main(["evaluate", str(run), f"--tasks={tmp_path / 'ice.yaml'}", "--template=always"]) == 0
    )
    assert " ice    chat     acc" in capsys.readouterr().out


def test_list_says_which_local_tasks_there_are(run, capsys):
    assert main(["evaluate", str(run), "--tasks=list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("instructions", "common_knowledge", "own_questions"))


def of_local_tasks(folders, metadata, is_all, manager=task_scores._manager):
    """As `_manager`, without the thousands of tasks of lm_eval, which take a while to find."""
    return manager(folders, metadata, is_all=False)


def test_wrong_arguments_are_named(run, capsys, monkeypatch, tmp_path):
    def error(*words):
        assert main(["evaluate", str(run), *words]) == 2
        return capsys.readouterr().err

    assert "--limit=-1; give 0 or more" in error("--tasks=anchors", "--limit=-1")
    assert "no such folder" in error("--tasks=anchors", f"--include_path={tmp_path / 'none'}")
    monkeypatch.setattr(task_scores, "_manager", of_local_tasks)
    unknown = error("--tasks=anchors,instructoins")
    assert "task 'instructoins' is unknown; the nearest is instructions" in unknown
    find = task_scores.importlib.util.find_spec
    monkeypatch.setattr(
        task_scores.importlib.util, "find_spec", lambda x: None if x == "lm_eval" else find(x)
    )
    assert "pip install 'sleep_jax[eval]'" in error("--tasks=anchors")
