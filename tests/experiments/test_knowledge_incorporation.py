"""Knowledge incorporation: its passages, its table, and its arms on the tiny model."""

import json
import runpy

import jax
import numpy as np
import pytest

from sleep_jax.data.documents import read_source
from sleep_jax.days import Day
from sleep_jax.dreaming import write
from sleep_jax.evals.recall import greedy_replies
from sleep_jax.experiment import load_experiment
from sleep_jax.models.decoder_config import LoraConfig
from sleep_jax.phases.evaluate import ask
from sleep_jax.runtime.checkpoints import PhaseCheckpoints

EXPERIMENT = "knowledge_incorporation"
MODULES = ("passages", "arm_configs", "adapter_arms", "sleep_arms", "table", "run")


def test_read_passages_keeps_the_order_and_round_trips_as_documents(lab, tmp_path):
    items = [
        {"title": "T", "context": text, "questions": [{"question": "Q?", "answer": "A"}]}
        for text in ("long " * 151, "short one", "short two")
    ]
    file = tmp_path / "squad.json"
    file.write_text(json.dumps(items))
    passages = lab.passages.read_passages(file, 2, lab.passages.is_short)
    assert [p.text for p in passages] == ["short one", "short two"]
    lines = tmp_path / "passages.jsonl"
    lines.write_text("".join(f"{lab.passages.as_line(p)}\n" for p in passages))
    assert list(read_source(lines).chunk(64, str.split).documents) == passages
    with pytest.raises(ValueError, match="2 passages fit, fewer than the 3 requested"):
        lab.passages.read_passages(file, 3, lab.passages.is_short)
    with pytest.raises(FileNotFoundError, match="--data"):
        lab.passages.read_passages(tmp_path / "none.json", 1, lab.passages.is_short)
    with pytest.raises(AssertionError, match="test question"):
        lab.passages.reward_items(passages[:1], passages[1:])


@pytest.mark.parametrize(
    "items, message",
    [
        ({}, "passages={}; give a list"),
        ([3], r"passages\[0\]=3; give an object"),
        ([{"title": "T"}], r"squad\.json has no passages\[0\]\.context"),
        ([{"context": ["a"]}], r"passages\[0\]\.context=\['a'\]; give a string"),
        (
            [{"title": "T", "context": "a", "questions": [{"question": 1}]}],
            r"questions\[0\]\.quest",
        ),
    ],
)
def test_read_passages_errors_name_the_field(lab, tmp_path, items, message):
    file = tmp_path / "squad.json"
    file.write_text(json.dumps(items))
    with pytest.raises(ValueError, match=message):
        lab.passages.read_passages(file, 1, lab.passages.is_short)


def row(arm, passage, question, *replies, seed=0):
    return {
        "arm": arm, "seed": seed, "passage": passage, "question": question, "answer": "Otrar",
        "replies": list(replies),
    }  # fmt: skip


def test_table_differences_are_paired_and_average_over_models(lab):
    base = [row("base", p, q, "no") for p in "abcd" for q in "xy"]
    half = [row("other", p, q, "In Otrar.", "no") for p in "abcd" for q in "xy"]
    assert lab.table.mean_score(half, "contains") == 0.5
    assert lab.table.difference(half, base) == (0.5, 0.5, 0.5)
    one = [
        row("one", p, q, "Otrar" if (p, q) == ("a", "x") else "no") for p in "abcd" for q in "xy"
    ]
    mean, low, high = lab.table.difference(one, base)
    assert mean == 1 / 8 and low == 0.0 and 1 / 8 < high <= 0.5
    text = lab.table.table(lab.table.summary(base + half + one))
    assert "| other | 1 | 50.0 |" in text and "+50.0 [+50.0, +50.0]" in text
    assert "4 passages, 8 questions" in text


def test_table_has_what_models_can_do_besides(lab, tmp_path):
    def can(instructions):
        scores = {"anchors": 2.0, "instructions": instructions, "common_knowledge": 0.75}
        return {"limit": 8, "scores": scores, "items": dict.fromkeys(scores, 8)}

    def write(arm, figures):
        path = lab.table.capability_path(tmp_path, arm, 0)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(figures))

    rows = [row(arm, p, "x", "no") for arm in ("base", "sleep", "some arm") for p in "ab"]
    write("base", can(0.5))
    write("sleep", can(0.25))
    figures = lab.table.summary(rows, lab.table.read_capability(tmp_path, rows))
    assert figures["arms"]["sleep"]["capability"] == [{"before": can(0.5), "after": can(0.25)}]
    lines = lab.table.table(figures).splitlines()
    assert "| anchor texts, perplexity a byte (of 8) | instructions followed (of 8) |" in lines[0]
    ends = {line.split(" | ")[0]: line.split(" | ")[-3:] for line in lines[2:5]}
    assert ends["| base"] == ["2.00", "50 %", "75 % |"]
    assert ends["| sleep"] == ["2.00 -> 2.00", "50 -> 25 %", "75 -> 75 % |"]
    assert ends["| some arm"] == ["", "", " |"]


@pytest.mark.parametrize("kind", ["single", "stream"])
def test_tables_of_the_readme_are_those_of_the_results(lab, kind):
    page = lab.table.README.read_text(encoding="utf-8")
    begin, end = lab.table.marks(kind)
    [published] = page.split(begin)[1].split(end)[:1]
    results = json.loads(lab.table.RESULTS.read_text(encoding="utf-8"))
    assert published.strip() == lab.table.table(results[kind])


def test_variant_changes_only_the_settings_of_its_arm(lab):
    configs = lab.arm_configs
    full = configs.after_many(5)

    def changed(arm):
        before, after = full.to_dict()["dreaming"], configs.variant(arm, full).to_dict()["dreaming"]
        return {name for name in before if before[name] != after[name]}

    assert changed(configs.FULL) == set()
    assert changed(configs.NO_SELECTION) == {"measure", "keep_top", "keep_random"}
    assert changed(configs.NO_EXPERT) == {"random_expert"}
    # On the last day more slots are filled than the router picks; the expert is one of these.
    assert full.memory.top_k < configs.FEWEST_DAYS - 1
    assert changed(configs.NO_DREAMS) == {"steps"}
    tried = configs.variant(configs.NO_SELECTION, full).dreaming
    assert (tried.keep_top, tried.keep_random) == (
        0,
        full.dreaming.keep_top + full.dreaming.keep_random,
    )
    every = configs.variant(configs.NO_ROUTER, full)
    assert (every.memory.router, every.memory.top_k) == ("none", 0)
    assert changed(configs.NO_ROUTER) == {"random_expert"}


@pytest.fixture(scope="module")
def experiment():
    return load_experiment(tiny())


def tiny():
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.memory.slots = (1,)
    config.dreaming.num_generations = 3
    return config


@pytest.mark.slow
def test_after_a_passage_arms_share_dreams_and_study(lab, experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "dream_rejection_reason", lambda *_: None)
    passage = experiment.documents[0]
    by_arm = lab.sleep_arms.after_a_passage(experiment, tiny(), passage, tmp_path)
    assert set(by_arm) == {*lab.sleep_arms.STAGE_OF, lab.arm_configs.NO_SELECTION}
    questions = len(Day.of([passage]).questions)
    assert all(len(replies) == questions for replies in by_arm.values())
    models = lab.sleep_arms.models_after_a_passage(experiment, tiny(), passage, tmp_path)
    asked = [(0, q.text) for q in Day.of([passage]).questions]
    for arm, model in models.items():
        run = lab.sleep_arms.with_days(experiment, tiny(), [[passage]])
        assert ask(run, model.variables, asked) == by_arm[arm]
    assert {*models} == {*by_arm} - {lab.arm_configs.BASE, lab.sleep_arms.CONTEXT}
    records = []
    for run in ("full", "random"):
        with PhaseCheckpoints(tmp_path / run / "checkpoints") as saved:
            records.append(saved.record(saved.latest()[0])["run"])
    full, other = (record["days"][0] for record in records)
    assert full["dreams"] == other["dreams"] and full["study"] == other["study"]


@pytest.mark.slow
def test_after_many_passages_arms_share_the_phases_before_they_differ(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "dream_rejection_reason", lambda *_: None)
    config = tiny()
    config.memory.slots, config.memory.router, config.memory.top_k = (3,), "sigmoid", 1
    config.dreaming.random_expert, config.data.episodes = True, 3
    config.data.documents = "samples:3"
    monkeypatch.setattr(lab.sleep_arms, "after_many", lambda days: config)
    experiment = load_experiment(config)
    passages, days = experiment.documents, {}
    configs = lab.arm_configs
    for arm in (
        configs.FULL,
        configs.NO_EXPERT,
        configs.NO_SELECTION,
        configs.NO_DREAMS,
        configs.NO_ROUTER,
    ):
        replies, model = lab.sleep_arms.after_many_passages(
            experiment, arm, passages, 3, 0, tmp_path
        )
        assert [len(x) for x in replies] == [len(p.questions) for p in passages]
        assert {"memory", "slots"} <= {*model.variables}
        with PhaseCheckpoints(tmp_path / arm.replace(" ", "_") / "checkpoints") as saved:
            days[arm] = saved.record(saved.latest()[0])["run"]["days"]
    full = days[configs.FULL]
    assert days[configs.NO_EXPERT][:2] == full[:2]
    assert days[configs.NO_EXPERT][2]["study"] == full[2]["study"]
    assert days[configs.NO_EXPERT][2]["dreams"] != full[2]["dreams"]
    assert days[configs.NO_SELECTION][0]["dreams"] == full[0]["dreams"]
    assert days[configs.NO_DREAMS][0]["study"] == full[0]["study"]
    assert "dreams" not in days[configs.NO_DREAMS][0]
    assert days[configs.NO_ROUTER][0]["study"] == full[0]["study"]
    assert len(days[configs.NO_ROUTER]) == 3
    routed, every = (
        lab.sleep_arms.with_days(experiment, configs.variant(arm, config), [passages])
        for arm in (configs.FULL, configs.NO_ROUTER)
    )
    assert (routed.cfg.memory.router, every.cfg.memory.router) == ("sigmoid", "none")


@pytest.mark.slow
def test_seal_round_trains_the_writer_and_every_dream_has_replies(lab, experiment, monkeypatch):
    monkeypatch.setattr(write, "dream_rejection_reason", lambda *_: None)
    for name in ("INNER", "OUTER"):
        monkeypatch.setattr(lab.adapter_arms, name, LoraConfig(2, 4.0, ("q", "up")))
    model = lab.adapter_arms.SealModel.from_experiment(experiment)
    passages = experiment.documents
    items = lab.passages.reward_items([], passages)
    monkeypatch.setattr(
        lab.adapter_arms, "compute_rewards", lambda _, gain, documents: np.zeros(len(documents))
    )
    with pytest.warns(UserWarning, match="no dream was rewarded"):
        assert model.reinforced(passages, items, 2, seed=0) is model
    monkeypatch.setattr(
        lab.adapter_arms, "compute_rewards", lambda _, gain, documents: np.ones(len(documents))
    )
    writer = model.reinforced(passages, items, 2, seed=0)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(writer.writer))
    replies_to_dreams, tuned = lab.adapter_arms.on_dreams(writer, passages, 2, seed=0)
    asked = [writer.prompts.without_context(passages[0].questions[0].question)]
    [own] = greedy_replies(tuned.cfg, tuned.variables, tuned.tokenizer, asked, max_new_tokens=64)
    assert own == replies_to_dreams[0][0][0]  # the first model about the first passage
    assert [len(x) for x in replies_to_dreams] == [2, 2]
    single, _ = lab.adapter_arms.on_passages(model, passages, seed=0)
    all_at_once, _ = lab.adapter_arms.continued(model, passages, 1, seed=0)
    for replies in (*replies_to_dreams[0], single[0], all_at_once[0]):
        assert len(replies) == len(passages[0].questions)
