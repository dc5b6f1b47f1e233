"""The programs of a tiny run, against those that its phases listed beforehand."""

import dataclasses
import runpy

import jax
from articulate import articulate
from life import record_calls, sizes_of

from sleep_jax import lifecycle
from sleep_jax.experiment import load_experiment
from sleep_jax.forecast.programs import programs_of
from sleep_jax.phases import trial
from sleep_jax.runtime.mesh import make_mesh
from sleep_jax.runtime.metrics import read_metrics
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.study import questions

# Jitted functions of a run that no phase lists, and why.
NOT_LISTED = {
    "_taken": "copies rows of a context; no product",
    "_sums": "the fingerprint of the weights, once a run",
    "similarity": "the edit distances of Eq. 4, small beside a decoder",
}


def comparable(signature):
    """Without the ends of turns: token 0 stands for those of any tokenizer."""
    name, leaves = signature
    return name, tuple(
        (path, dataclasses.replace(x, eos_ids=()) if isinstance(x, SamplingConfig) else x)
        for path, x in leaves
    )


def test_forecast_lists_the_programs_of_a_run(tmp_path, monkeypatch):
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.seeding.steps, config.dreaming.steps = 2, 1
    experiment = load_experiment(config)
    with monkeypatch.context() as patch:
        articulate(patch)
        patch.setattr(questions, "is_about", lambda text, sentence: bool(text))
        patch.setattr(trial, "earned", lambda config, gain, documents: [1.0] * len(gain))
        calls = record_calls(patch)
        run = lifecycle.run(experiment, str(tmp_path), quiet=True)
    assert not [x for x in run.record["phases"].values() if "skipped" in x]
    called = {comparable(x) for x in calls if x[0] not in NOT_LISTED}

    study = run.day(0)["study"]
    own = {f"What is said about {x.title}?" for x in experiment.documents}  # of `articulate`
    asked = [q["question"] for q in (*study["held_out"], *study["learnt"])]
    updates = sum(x["phase"] == "learn" and "loss" in x for x in read_metrics(tmp_path))
    sizes = sizes_of(experiment, run, [q for q in asked if q not in own], updates)
    programs = programs_of(config, make_mesh(config), sizes, jax.default_backend())
    listed = {comparable(program.signature): program.name for program in programs}
    for x in called - listed.keys():
        print("called, not listed:", shapes_of(x))
    for x in listed.keys() - called:
        print("listed, not called:", listed[x], shapes_of(x))
    assert called == listed.keys()


def shapes_of(signature):
    """A signature without the collections of the model."""
    name, leaves = signature
    skipped = ("params", "memory", "slots", "lora", "cfg")
    return name, [(p, x) for p, x in leaves if not any(word in p for word in skipped)]
