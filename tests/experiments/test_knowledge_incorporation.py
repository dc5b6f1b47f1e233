"""Knowledge incorporation: its passages, its table, and its flow on the tiny model."""

import json
import runpy

import jax
import numpy as np
import pytest

from sleep_jax.data.documents import read_source
from sleep_jax.dreaming import write
from sleep_jax.experiment import Day, load_experiment
from sleep_jax.models.decoder_config import LoraConfig
from sleep_jax.runtime.checkpoints import PhaseCheckpoints

EXPERIMENT = "knowledge_incorporation"
MODULES = ("passages", "night", "adapters", "lives", "table", "run")


def test_passages_are_read_in_order_and_written_as_documents(lab, tmp_path):
    items = [
        {"title": "T", "context": text, "questions": [{"question": "Q?", "answer": "A"}]}
        for text in ("long " * 151, "short one", "short two")
    ]
    file = tmp_path / "squad.json"
    file.write_text(json.dumps(items))
    found = lab.passages.read_passages(file, 2, lab.passages.is_short)
    assert [p.text for p in found] == ["short one", "short two"]
    lines = tmp_path / "passages.jsonl"
    lines.write_text("".join(f"{lab.passages.as_line(p)}\n" for p in found))
    assert list(read_source(lines).chunk(64, str.split).documents) == found
    with pytest.raises(ValueError, match="2 of its passages fit, 3 are asked for"):
        lab.passages.read_passages(file, 3, lab.passages.is_short)
    with pytest.raises(FileNotFoundError, match="--data"):
        lab.passages.read_passages(tmp_path / "none.json", 1, lab.passages.is_short)
    with pytest.raises(AssertionError, match="test question"):
        lab.passages.reward_items(found[:1], found[1:])


@pytest.mark.parametrize(
    "items, words",
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
def test_passages_of_other_types_are_refused_in_words(lab, tmp_path, items, words):
    file = tmp_path / "squad.json"
    file.write_text(json.dumps(items))
    with pytest.raises(ValueError, match=words):
        lab.passages.read_passages(file, 1, lab.passages.is_short)


def row(arm, passage, question, *replies, seed=0):
    return {
        "arm": arm, "seed": seed, "passage": passage, "question": question, "answer": "Otrar",
        "replies": list(replies),
    }  # fmt: skip


def test_differences_are_paired_and_of_several_models_the_mean_counts(lab):
    base = [row("base", p, q, "no") for p in "abcd" for q in "xy"]
    half = [row("other", p, q, "In Otrar.", "no") for p in "abcd" for q in "xy"]
    assert lab.table.share(half, "contains") == 0.5
    assert lab.table.difference(half, base) == (0.5, 0.5, 0.5)
    one = [
        row("one", p, q, "Otrar" if (p, q) == ("a", "x") else "no") for p in "abcd" for q in "xy"
    ]
    mean, low, high = lab.table.difference(one, base)
    assert mean == 1 / 8 and low == 0.0 and 1 / 8 < high <= 0.5
    text = lab.table.table(base + half + one)
    assert "| other | 1 | 50.0 |" in text and "+50.0 [+50.0, +50.0]" in text
    assert "4 passages, 8 questions" in text


def test_the_variants_differ_in_what_they_are_named_after(lab):
    night = lab.night
    full = night.after_many(5)

    def changed(arm):
        was, now = full.to_dict()["dreaming"], night.variant(arm, full).to_dict()["dreaming"]
        return {name for name in was if was[name] != now[name]}

    assert changed(night.FULL) == set()
    assert changed(night.NO_SELECTION) == {"measure", "top", "random"}
    assert changed(night.NO_EXPERT) == {"random_expert"}
    # The last day's writer has a slot more than are on, of which the expert is drawn.
    assert full.memory.top_k < night.FEWEST_DAYS - 1
    assert changed(night.NO_DREAMS) == {"steps"}
    tried = night.variant(night.NO_SELECTION, full).dreaming
    assert (tried.top, tried.random) == (0, full.dreaming.top + full.dreaming.random)
    every = night.variant(night.NO_ROUTER, full)
    assert (every.memory.router, every.memory.top_k) == ("none", 0)
    assert changed(night.NO_ROUTER) == {"random_expert"}


@pytest.fixture(scope="module")
def experiment():
    return load_experiment(tiny())


def tiny():
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.memory.slots = (1,)
    config.dreaming.count = 3
    return config


@pytest.mark.slow
def test_arms_share_a_night_up_to_the_choice_of_dreams(lab, experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "dream_rejection_reason", lambda *_: None)
    passage = experiment.documents[0]
    said = lab.lives.after_a_passage(experiment, tiny(), passage, tmp_path)
    assert set(said) == {*lab.lives.STAGE_OF, lab.night.NO_SELECTION}
    asked = len(Day.of([passage]).questions)
    assert all(len(replies) == asked for replies in said.values())
    records = []
    for run in ("full", "random"):
        with PhaseCheckpoints(tmp_path / run / "checkpoints") as saved:
            records.append(saved.record(saved.latest()[0])["night"])
    full, other = (record["days"][0] for record in records)
    assert full["dreams"] == other["dreams"] and full["study"] == other["study"]


@pytest.mark.slow
def test_arms_of_a_stream_share_what_comes_before_they_part(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "dream_rejection_reason", lambda *_: None)
    config = tiny()
    config.memory.slots, config.memory.router, config.memory.top_k = (3,), "sigmoid", 1
    config.dreaming.random_expert, config.data.episodes = True, 3
    config.data.documents = "samples:3"
    monkeypatch.setattr(lab.lives, "after_many", lambda days: config)
    experiment = load_experiment(config)
    passages, ends = experiment.documents, {}
    night = lab.night
    for arm in (night.FULL, night.NO_EXPERT, night.NO_SELECTION, night.NO_DREAMS, night.NO_ROUTER):
        said = lab.lives.after_many_passages(experiment, arm, passages, 3, 0, tmp_path)
        assert [len(of) for of in said] == [len(p.questions) for p in passages]
        with PhaseCheckpoints(tmp_path / arm.replace(" ", "_") / "checkpoints") as saved:
            ends[arm] = saved.record(saved.latest()[0])["night"]["days"]
    whole = ends[lab.night.FULL]
    assert ends[lab.night.NO_EXPERT][:2] == whole[:2]
    assert ends[lab.night.NO_EXPERT][2]["study"] == whole[2]["study"]
    assert ends[lab.night.NO_EXPERT][2]["dreams"] != whole[2]["dreams"]
    assert ends[lab.night.NO_SELECTION][0]["dreams"] == whole[0]["dreams"]
    assert ends[lab.night.NO_DREAMS][0]["study"] == whole[0]["study"]
    assert "dreams" not in ends[lab.night.NO_DREAMS][0]
    assert ends[night.NO_ROUTER][0]["study"] == whole[0]["study"]
    assert len(ends[night.NO_ROUTER]) == 3
    routed, every = (
        lab.lives.reading(experiment, night.variant(arm, config), [passages])
        for arm in (night.FULL, night.NO_ROUTER)
    )
    assert (routed.cfg.memory.router, every.cfg.memory.router) == ("sigmoid", "none")


@pytest.mark.slow
def test_seal_tries_every_dream_and_learns_to_write_the_best(lab, experiment, monkeypatch):
    monkeypatch.setattr(write, "dream_rejection_reason", lambda *_: None)
    for name in ("INNER", "OUTER"):
        monkeypatch.setattr(lab.adapters, name, LoraConfig(2, 4.0, ("q", "up")))
    model = lab.adapters.Model.of(experiment)
    passages = experiment.documents
    items = lab.passages.reward_items([], passages)
    writer = model.reinforced(passages, items, 2, seed=0)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(writer.writer))
    said = lab.adapters.on_dreams(writer, passages, 2, seed=0)
    assert [len(of) for of in said] == [2, 2]
    alone = lab.adapters.on_passages(model, passages, seed=0)
    all_at_once = lab.adapters.continued(model, passages, 1, seed=0)
    for replies in (*said[0], alone[0], all_at_once[0]):
        assert len(replies) == len(passages[0].questions)
