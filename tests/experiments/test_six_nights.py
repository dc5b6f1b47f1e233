"""Six nights: its days, its figures by hand, and what the adapter learns from."""

import dataclasses
import runpy

import numpy as np
import pytest

from sleep_jax import lifecycle
from sleep_jax.experiment import load_experiment
from sleep_jax.phases.evaluate import anchor_perplexity
from sleep_jax.seeding import consolidate
from sleep_jax.seeding.mixture import fill_batch

EXPERIMENT = "six_nights"
MODULES = ("config", "figures", "sequential_lora", "run")


def shares(*questions):
    return [{"questions": x, "paraphrases": x / 2} for x in questions]


RUN = {
    "seed": 0,
    "recall": [shares(0.5), shares(0.25, 1.0)],
    "anchors": [22.0, 21.0],
    "before": 20.0,
    "open_book": shares(1.0, 0.5),
    "tokens": [9, 9],
    "seconds": [10.0, 30.0],
}


def test_config_has_a_day_and_a_slot_for_two_documents(lab):
    c = lab.config.get_config("samples:1-6")
    assert (c.data.documents, c.data.episodes, c.memory.slots) == ("samples:1-6", 3, (3,))
    assert lab.config.get_config().data.episodes == 6
    with pytest.raises(ValueError, match="documents='notes'; give a range of samples"):
        lab.config.get_config("notes")


def test_retention_and_summary_by_hand(lab):
    want = [[0.5, np.nan], [0.25, 1.0]]
    np.testing.assert_array_equal(lab.figures.retention(RUN, "questions"), want)
    assert lab.figures.summarise(RUN, "questions") == {
        "after its own night": 75.0,
        "at the end": 62.5,
        "of the former": pytest.approx(100 * 1.25 / 1.5),
        "oldest half, at the end": 25.0,
    }


def test_table_has_anchors_beside_those_before_the_first_night(lab):
    text = lab.figures.report({"sleep": [RUN, RUN | {"anchors": [22.0, 23.0]}]}, False)
    assert "| sleep | 2 | 75 ± 0 % | 62 ± 0 % | 83 ± 0 % | 25 ± 0 % | +10 ± 7 % | 20 ± 0 |" in text
    assert "| open book | 2 | 75 ± 0 % |" in text
    assert "| 2 | 25 | 100 |" in text


def test_table_has_what_models_can_do_besides(lab):
    def can(instructions):
        scores = {"anchors": 2.0, "instructions": instructions, "common_knowledge": 0.75}
        return {"limit": 8, "scores": scores, "items": dict.fromkeys(scores, 8)}

    slept = RUN | {"capability": {"before": can(0.5), "after": can(0.25)}}
    text = lab.figures.table({"sleep": [slept], "other": [RUN]})
    assert "| seconds a night | instructions followed (of 8) | multiple choice (of 8) |" in text
    assert "| +5 % | 20 | 50 -> 25 % | 75 -> 75 % |" in text and "| +5 % | 20 |  |  |" in text
    columns = {line.count("|") for line in text.splitlines() if line}
    assert len(columns) == 1


def test_figures_of_sleep_are_those_of_the_record(lab):
    stages = ("before sleep", "after consolidation", "with the document in context")
    scores = [
        dict(zip(stages, ({"anchor_perplexity": a}, {"anchor_perplexity": b}, book)))
        for a, b, book in zip((20.0, 22.0), (22.0, 21.0), RUN["open_book"])
    ]
    days = [{"recall": r, "scores": s} for r, s in zip(RUN["recall"], scores)]
    night = {"tokens": 9, "seconds": 10.0}
    phases = {"consolidate": night, "consolidate-2": night | {"seconds": 30.0}}
    assert lab.figures.of_sleep({"days": days, "phases": phases}, 0) == RUN


@pytest.mark.slow
def test_adapter_learns_the_sequences_of_every_update_of_the_night(lab, monkeypatch, tmp_path):
    c = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    c.seeding.num_prompts = c.dreaming.steps = 0
    c.seeding.steps, c.seeding.known_share = 5, 0.5
    experiment, drawn = load_experiment(c), []

    def recorded(*args):
        chosen, stream = fill_batch(*args)
        drawn.append(chosen)
        return chosen, stream

    monkeypatch.setattr(consolidate, "fill_batch", recorded)
    slept = lifecycle.run(experiment, tmp_path / "run")
    assert lab.sequential_lora.drawn_by_night(experiment, slept, 0) == drawn and len(drawn) == 5
    batches = lab.sequential_lora.batches_of_night(experiment, slept, 0)
    tokens = [sum(len(e.completion) for e in chosen) for chosen in drawn]
    assert [int(batch.mask.sum()) for batch in batches] == tokens
    assert len({batch.tokens.shape for batch in batches}) == 1
    lora = lab.sequential_lora
    run = lora.fine_tuned(experiment, slept, 1e-3, 0, tmp_path / "lora")
    tuned = lora.last_model(experiment, tmp_path / "lora")
    same = dataclasses.replace(experiment, cfg=tuned.cfg)
    perplexity = anchor_perplexity(same, tuned.variables, "anchor_perplexity")
    assert perplexity == run["anchors"][-1]
    before = slept.record["days"][0]["scores"]["before sleep"]["anchor_perplexity"]
    assert perplexity != pytest.approx(before)
