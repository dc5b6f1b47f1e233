"""Class-incremental learning: its splits and figures by hand, and each arm on a tiny model."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from sleep_jax.baselines.inca import ClassGaussians, InCA
from sleep_jax.baselines.labels import label_request
from sleep_jax.baselines.model import Model
from sleep_jax.data.class_sets import ClassSet, Labelled
from sleep_jax.interop.tiny import tiny_model

EXPERIMENT = "class_incremental"
MODULES = ("protocol", "learners", "nights", "arms", "figures", "run")

NAMES = ["pin", "card", "loan", "cash", "rent", "tax", "fee", "bank", "debt", "fund"]
DATA = ClassSet(
    *(
        tuple(Labelled(f"{part} {i} of {name}", name) for name in NAMES for i in range(3))
        for part in ("train", "test")
    )
)
RUN = {
    "arm": "sleep",
    "seed": 0,
    "groups": [["pin", "card"], ["loan"]],
    "accuracy": [[1.0, None], [0.25, 0.5]],
    "classes": {"pin": 0.5, "card": 0.0, "loan": 0.5},
    "stores": [4, 0],
    "seconds": [60.0, 180.0],
    "anchors": 21.0,
    "is_done": True,
}
OTHER = RUN | {"arm": "replay", "classes": {"pin": 0.0, "card": 0.0, "loan": 0.5}, "anchors": 20.0}
JOINT = RUN | {"arm": "joint training", "accuracy": [[None, None], [1.0, 0.5]]}


@pytest.fixture(scope="module")
def base():
    cfg, params, tokenizer = tiny_model(dtype="float32", remat="none")
    return Model(cfg, {"params": params}, tokenizer)


@pytest.fixture(scope="module")
def sizes(lab):
    return lab.protocol.Sizes(
        groups=2, group_size=2, train=2, test=1, updates=2, batch=4, capacity=2, rank=2, rows=2,
        max_new_tokens=4,
    )  # fmt: skip


@pytest.fixture(scope="module")
def groups(lab, sizes):
    return lab.protocol.groups_of(sizes, DATA, "report", 0)


def test_splits_share_no_class_and_are_the_same_for_every_seed(lab, sizes):
    tune, rest = (lab.protocol.classes_of(split, NAMES) for split in lab.protocol.SPLITS)
    assert len(tune) == 2 and sorted(tune + rest) == sorted(NAMES)
    with pytest.raises(ValueError, match="split='all'; choose from tune, report"):
        lab.protocol.classes_of("all", NAMES)
    few = dataclasses.replace(sizes, groups=1)
    for seed in range(3):
        [group] = lab.protocol.groups_of(few, DATA, "tune", seed)
        assert {*group.labels} == {*tune}


def test_groups_have_their_texts_and_no_class_twice(lab, sizes, groups):
    first, second = groups
    assert not {*first.labels} & {*second.labels}
    assert [len(x) for x in first] == [2, 4, 2] and {x.label for x in first.test} == {*first.labels}
    everything = dataclasses.replace(sizes, groups=0, group_size=3, train=0)
    one, _ = lab.protocol.groups_of(everything, DATA, "report", 0)
    assert len(one.train) == 9
    with pytest.raises(ValueError, match="groups=5 of group_size=2, but report has 8 classes"):
        lab.protocol.groups_of(dataclasses.replace(sizes, groups=5), DATA, "report", 0)


def test_a_reply_is_right_if_of_all_classes_seen_it_names_that_of_the_text(lab):
    texts = [Labelled("a", "card"), Labelled("b", "card"), Labelled("c", "pin")]
    replies = ["Card.", "It is the card lost", "a card"]
    right = lab.protocol.is_right(replies, texts, ["card", "card lost", "pin"])
    assert right == [True, False, False]


def test_figures_of_a_run_by_hand(lab):
    assert lab.figures.final_accuracy(RUN) == pytest.approx(1 / 3)
    assert lab.figures.forgetting(RUN) == pytest.approx(0.75)
    assert lab.figures.when_learnt(RUN) == pytest.approx(0.75)
    assert np.isnan(lab.figures.forgetting(JOINT)) and np.isnan(lab.figures.when_learnt(JOINT))


def test_paired_difference_is_over_the_classes_of_seeds_that_both_have(lab):
    later = OTHER | {"seed": 1}
    mean, low, high = lab.figures.paired_difference([RUN], [OTHER, later])
    assert mean == pytest.approx(1 / 6) and 0 == low < mean < high <= 0.5
    assert lab.figures.paired_difference([RUN], [later]) is None


def test_report_has_a_row_for_every_finished_arm(lab, sizes, tmp_path):
    unfinished = RUN | {"arm": "EWC", "is_done": False}
    text = lab.figures.report(tmp_path, [RUN, OTHER, JOINT, unfinished], 20.0, sizes)
    assert "| sleep | 4 (0) | 1 | 33 % |  | 75 | 75 | +5 % | 2.0 |" in text
    assert "| replay | 4 (0) | 1 | 17 % | +17 [+0, +50] | 75 | 75 | +0 % | 2.0 |" in text
    assert "| joint training | 4 (0) | 1 | 33 % | +0 [+0, +0] |  |  | +5 % |" in text
    assert "EWC" not in text and "2 updates of 4 texts" in text
    assert len(json.loads((tmp_path / "results.json").read_text())["runs"]) == 3
    assert (tmp_path / "matrices.png").exists()


def test_report_shows_what_models_can_do_besides(lab, sizes, tmp_path):
    def can(instructions):
        scores = {"anchors": 2.0, "instructions": instructions, "common_knowledge": 0.75}
        return {"limit": 8, "scores": scores, "items": dict.fromkeys(scores, 8)}

    besides = {"before": can(0.5), "after": can(0.25)}
    text = lab.figures.report(tmp_path, [RUN | {"capability": besides}, OTHER], 20.0, sizes)
    assert "| instructions followed (of 8) | multiple choice (of 8) |" in text
    assert (
        "| sleep | 4 (0) | 1 | 33 % |  | 75 | 75 | +5 % | 2.0 | 50 -> 25 % | 75 -> 75 % |" in text
    )
    assert "| +0 % | 2.0 |  |  |" in text
    first, second = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert first["capability"] == besides and "capability" not in second


class LetterCounts:
    """An encoder: how often a text has each of three letters."""

    def encode(self, texts):
        return np.array([[x.count(letter) for letter in "aei"] for x in texts], float)


def begun(lab, title, base, sizes, groups, log=lambda step, figures: None):
    arm = lab.arms.ARMS[title]
    return lab.arms.learner_of(arm, base, sizes, groups, 0, log, LetterCounts)


def test_teacher_has_seen_the_text_and_its_label_a_turn_before(lab, base):
    text = Labelled("my code", "pin")
    [shown] = lab.nights.taught(base.tokenizer, [text], "answer", lab.nights.Night())
    asked = f"user\n{label_request(text.text)}\nassistant\n"
    assert base.tokenizer.decode(shown.teacher) == f"{asked}pin\n{asked}"
    assert base.tokenizer.decode(shown.student) == asked and shown.document == 0
    assert shown.supervised
    night = lab.nights.Night(answer_in_view=False, ce_coef=0.0)
    [hidden] = lab.nights.taught(base.tokenizer, [text], "answer", night)
    assert base.tokenizer.decode(hidden.teacher) == asked and not hidden.supervised
    assert base.tokenizer.reply_text(hidden.completion) == "pin"


@pytest.mark.slow
def test_each_night_fills_a_slot_and_leaves_earlier_ones_as_they_were(lab, base, sizes, groups):
    logged = []
    first = begun(lab, "sleep", base, sizes, groups, lambda *x: logged.append(x)).learn(
        groups[0].train
    )
    second = first.learn(groups[1].train)
    assert [step for step, _ in logged] == [0, 1, 0, 1]
    downs = [x.state.memory["layers"]["level_1"]["experts"]["down"] for x in (first, second)]
    np.testing.assert_array_equal(downs[0][:, 0], downs[1][:, 0])
    assert np.any(downs[1][:, 1]) and not np.any(downs[0][:, 1])
    assert second.stores == (2, 0) and second.nights == 2
    asked = second._asked_again([Labelled(*x) for x in second.kept.pairs])
    assert all(e.is_known and e.is_closed_book for e in asked)


def test_external_learner_goes_on_with_its_classes_and_summaries(lab, base, tmp_path):
    gaussians = ClassGaussians.empty(3).add("pin", np.eye(3)).add("card", np.ones((2, 3)))
    empty = InCA.create(base, LetterCounts())
    inca = dataclasses.replace(empty, gaussians=gaussians, summaries={"pin": "A. b", "card": "c"})
    lab.learners.WithExternalLearner(inca).save(tmp_path)
    again = lab.learners.WithExternalLearner(empty).restore(tmp_path, ()).inca
    assert again.summaries == inca.summaries and again.gaussians.labels == ("pin", "card")
    for name in ("counts", "means", "scatter"):
        np.testing.assert_array_equal(getattr(again.gaussians, name), getattr(gaussians, name))


def test_view_has_the_first_texts_of_each_class(lab, base, sizes, groups):
    shots = dataclasses.replace(sizes, shots=1)
    learner = lab.learners.InContext(base, shots).learn(groups[0].train).learn(groups[1].train)
    assert [x.label for x in learner.shown] == list(dict.fromkeys(x.label for x in learner.shown))
    assert learner.shown[0] == groups[0].train[0] and learner.stores == (4, 4)
    assert lab.learners.InContext(base, sizes).learn(groups[0].train).stores == (4, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "title, stores",
    [
        ("sleep, labels kept", (2, 2)),
        ("in context", (8, 8)),
        ("InCA", (0, 0)),
        ("replay", (2, 2)),
        ("joint training", (8, 8)),
    ],
)
def test_an_arm_that_was_stopped_ends_as_one_that_was_not(
    lab, base, sizes, groups, tmp_path, title, stores
):
    facts = {"arm": title, "seed": 0}
    through = lab.run.finished_run(
        tmp_path / "through-0.json", facts, begun(lab, title, base, sizes, groups), groups, count
    )
    path = tmp_path / "stopped-0.json"

    def stop(n, **figures):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.run.finished_run(path, facts, begun(lab, title, base, sizes, groups), groups, stop)
    again = lab.run.finished_run(path, facts, begun(lab, title, base, sizes, groups), groups, count)
    timed = ("seconds", "asked_seconds")
    assert {k: v for k, v in again.items() if k not in timed} == {
        k: v for k, v in through.items() if k not in timed
    }
    assert tuple(through["stores"]) == stores and through["is_done"]
    assert through["accuracy"][0][1] is None and set(through["classes"]) == {
        label for group in groups for label in group.labels
    }
    assert [x.name for x in path.with_suffix("").glob("*")] in (["2"], [])
    learner = begun(lab, title, base, sizes, groups)
    if learner.model is not base:  # one that is trained
        model = lab.run.learnt_model(path, learner, groups)
        trained = jax.tree.leaves(model.variables), jax.tree.leaves(learner.model.variables)
        assert any(not np.array_equal(after, before) for after, before in zip(*trained))
    with pytest.raises(ValueError, match="has another seed; use another --workdir"):
        lab.run.finished_run(path, facts | {"seed": 1}, None, groups, count)


def count(n=1, **figures):
    """Takes the place of a progress bar."""


def test_rates_replace_those_of_arms_that_have_one(lab):
    arms = lab.run.arms_to_run(["replay", "InCA"], [1e-3, 3e-3])
    assert [*arms] == ["replay, rate 0.001", "replay, rate 0.003", "InCA"]
    assert arms["replay, rate 0.003"].learning_rate == 3e-3
