"""The programs of a tiny run, against those that its phases listed beforehand."""

import dataclasses
import math
import runpy

import jax
import numpy as np
import pytest
from articulate import articulate
from called_programs import check_programs, check_programs_of_a_run, record_calls

from sleep_jax import lifecycle
from sleep_jax.config import read
from sleep_jax.data.sentences import sentences
from sleep_jax.experiment import load_experiment
from sleep_jax.forecast.programs import programs_of
from sleep_jax.phases import trial
from sleep_jax.phases.consolidate import held_out
from sleep_jax.phases.registry import PHASES
from sleep_jax.phases.run_state import PhaseLogger
from sleep_jax.phases.study import studied
from sleep_jax.phases.wake import wake
from sleep_jax.programs.program import signature
from sleep_jax.programs.sizes import expected_sizes
from sleep_jax.runtime.mesh import make_mesh
from sleep_jax.runtime.metrics import MetricWriter
from sleep_jax.seeding import first_order, step
from sleep_jax.seeding.sequences import Exchange, HiddenStates, Teacher
from sleep_jax.study import questions, screening
from sleep_jax.study.questions import SelfQuestion
from sleep_jax.study.self_study import Study

# Settings that together choose most other programs: a trunk without memory, a router, critics, a
# reference, a trial of each passage, replies in place of likelihoods, a night as long as what was
# read asks for and that asks itself.
OTHERS = {
    "memory.layers": "last_quarter",
    "memory.router": "sigmoid",
    "memory.top_k": 1,
    "seeding.estimator": "ppo",
    "seeding.kl_coef": 0.1,
    "seeding.null_space": 0.9,
    "seeding.epochs": 0.5,
    "seeding.eval_steps": 1,
    "dreaming.estimator": "ppo",
    "dreaming.baseline": "passage",
    "dreaming.scorer": "exact_match",
    "dreaming.measure": "loss",
    "dreaming.trial.seeds": 2,
}


CONTRAST = {"memory.router": "sigmoid", "memory.router_key": "contrast"}
LORA = {"memory.expert": "lora", "memory.layers": "last_quarter"}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [OTHERS, CONTRAST, LORA], ids=["others", "contrast", "lora"])
def test_phases_list_the_programs_that_a_run_compiles(changes, tmp_path, monkeypatch):
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.update_from_flattened_dict(changes)
    experiment = load_experiment(config)
    with monkeypatch.context() as patch:
        articulate(patch)
        patch.setattr(questions, "is_about", lambda text, sentence: bool(text))
        patch.setattr(
            trial, "compute_rewards", lambda config, gain, documents: np.arange(len(gain)) % 2.0
        )
        calls = record_calls(patch)
        run = lifecycle.run(experiment, str(tmp_path), quiet=True)
    assert set(run.record["phases"]) == set(PHASES) - {"merge"}
    check_programs_of_a_run(experiment, run, tmp_path, calls)


@pytest.mark.parametrize(
    "changes",
    [
        {"seeding.teacher": "ema", "seeding.teacher_refresh": 1},
        {"seeding.teacher": "base", "memory.layers": "last_quarter"},
        {"study.is_screened": True},
    ],
    ids=["ema", "base", "screened"],
)
@pytest.mark.slow
def test_night_lists_the_programs_of_two_teachers(changes, tmp_path, monkeypatch):
    """The second night, which asks earlier questions again."""
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.data.episodes, config.study.earlier_questions = 2, 2
    config.seeding.steps, config.seeding.known_share = 2, 0.5
    config.update_from_flattened_dict(changes)
    experiment = load_experiment(config)
    asked = tuple(SelfQuestion(0, "", f"Who is number {i}?", f"{i}.") for i in range(3))
    run = lifecycle.init_run_state(experiment)
    run = run.note_day(0, slot=0, study=Study((), asked, ()).to_record())
    scheduled = [
        x for x in experiment.schedule if x.day == 1 and x.phase in ("study", "consolidate")
    ]
    with MetricWriter(tmp_path) as writer, monkeypatch.context() as patch:
        articulate(patch)
        patch.setattr(screening, "THRESHOLD", math.inf)  # nothing is left out
        calls = record_calls(patch)
        for phase in scheduled:
            logger = PhaseLogger(writer, phase.label, quiet=True)
            run = PHASES[phase.phase].function(experiment, run, logger, phase)
    prompts, [document] = experiment.prompts, experiment.days[1].documents
    again = run.day(1)["study"]["earlier"]
    assert len(again) == 2 and not [x for x in run.record["phases"].values() if "skipped" in x]
    sizes = expected_sizes(experiment.settings, 1, 0, len(sentences(document.text)))
    sizes = dataclasses.replace(
        sizes,
        contexts=(len(prompts.context(document)),),
        screen=_lengths_of_screening(experiment, document),
        ask=tuple(len(prompts.question_prompt(s)) for s in sentences(document.text)),
        answer=(),  # of the model's questions none passes for one
        rehearse=tuple(
            len((prompts.plain if i % 2 else prompts.without_context)(topic))
            for i, topic in enumerate(experiment.topics)
        ),
        earlier=tuple(len(e["student"]) for e in again),
        exchanges=tuple(studied(experiment, run, 1)),
        probe=tuple(held_out(experiment, run, 1)),
        anchors=tuple(anchors.tokens.shape for anchors in experiment.anchors.values()),
    )
    programs = programs_of(config, make_mesh(config), sizes, jax.default_backend())
    check_programs([x for x in programs if x.phase in ("study", "consolidate")], calls)


def _lengths_of_screening(experiment, document):
    """Tokens of each text that screening scores; () where the study is not screened."""
    if not experiment.settings.study.is_screened:
        return ()
    texts = screening.channel_texts(experiment.tokenizer, sentences(document.text))
    return tuple(len(before) + len(after) for before, after in texts)


@pytest.mark.slow
def test_wake_lists_the_programs_of_a_level_that_learns(tmp_path, monkeypatch):
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.memory.periods, config.memory.slots = (1, 0), (1, 2)
    config.memory.learning_rates = (0.5, 0.0)
    config.memory.stride, config.wake.context = 64, 512
    experiment = load_experiment(config)
    run, scheduled = lifecycle.init_run_state(experiment), experiment.schedule[0]
    with MetricWriter(tmp_path) as writer, monkeypatch.context() as patch:
        calls = record_calls(patch)
        wake(experiment, run, PhaseLogger(writer, "wake", quiet=True), scheduled)
    documents = experiment.documents
    contexts = tuple(len(experiment.prompts.context(x)) for x in documents)
    sizes = expected_sizes(experiment.settings, len(documents), max(contexts), len(documents))
    sizes = dataclasses.replace(sizes, contexts=contexts, stream=len(experiment.stream(0)))
    programs = programs_of(config, make_mesh(config), sizes, jax.default_backend())
    assert set(calls) == {program.signature for program in programs if program.phase == "wake"}


def test_consolidate_lists_the_gradient_where_the_gate_asks_for_something(monkeypatch):
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.seeding.learning_rate = "auto"
    sizes = expected_sizes(read(config), documents=1, context=64, sentences=1)
    name, mesh = "consolidate: gradient", make_mesh(config)
    assert name not in {p.name for p in programs_of(config, mesh, sizes, jax.default_backend())}
    config.gate.divergence = 0.8
    listed = {p.name: p for p in programs_of(config, mesh, sizes, jax.default_backend())}

    class Called(Exception):
        """With the arguments of the call."""

    def seeding_step(*args):
        raise Called(*args)

    monkeypatch.setattr(first_order, "seeding_step", seeding_step)
    experiment, prompt = load_experiment(config), (1, 2, 3)
    variables = lifecycle.init_run_state(experiment).current.variables(experiment.params)
    states = [HiddenStates(np.zeros((3, experiment.cfg.width), np.float32))]
    with pytest.raises(Called) as call:
        first_order.first_gradient(
            experiment.cfg,
            variables,
            1,
            0,
            [Exchange(None, prompt, prompt, prompt, "answer")],
            states,
            [Teacher(experiment.cfg, variables, None)],
            experiment.settings.seeding,
        )
    args = call.value.args
    assert signature(step.seeding_step, *args) == listed[name].signature
