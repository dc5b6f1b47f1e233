"""The programs of a study with variants, against those that it listed beforehand; what a plan says
of their tokens.
"""

import dataclasses
import runpy

import jax
import pytest
from articulate import articulate
from called_programs import check_programs, record_calls

from sleep_jax import lifecycle
from sleep_jax.data.sentences import sentences
from sleep_jax.experiment import load_experiment
from sleep_jax.forecast.programs import programs_of
from sleep_jax.phases.run_state import PhaseLogger
from sleep_jax.phases.study import study
from sleep_jax.programs.sizes import expected_sizes
from sleep_jax.runtime.mesh import make_mesh
from sleep_jax.runtime.metrics import MetricWriter
from sleep_jax.study import variants


def tiny():
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.study.rehearsals, config.study.multiple = 0, 0.1
    config.study.max_variant_tokens = 8
    config.study.answer_in_view = True
    return config


@pytest.mark.slow
def test_study_lists_the_programs_of_variants(tmp_path, monkeypatch):
    config = tiny()
    experiment = load_experiment(config)
    run = lifecycle.init_run_state(experiment)
    scheduled = next(x for x in experiment.schedule if x.phase == "study")
    with MetricWriter(tmp_path) as writer, monkeypatch.context() as patch:
        articulate(patch)
        calls = record_calls(patch)
        study(experiment, run, PhaseLogger(writer, "study", quiet=True), scheduled)
    prompts, documents = experiment.prompts, experiment.days[0].documents
    kinds, suggested = config.study.variants, [["Sing it aloud."]] * len(documents)
    requests = [*variants.requests_of_turn(documents, kinds, suggested, 0)]
    sizes = dataclasses.replace(
        expected_sizes(experiment.settings, len(documents), 0, 1),
        contexts=tuple(len(prompts.context(d)) for d in documents),
        ask=tuple(len(prompts.question_prompt(s)) for d in documents for s in sentences(d.text)),
        answer=(),  # of the model's questions none passes for one
        suggest=tuple(
            len(prompts.strategy_prompt(s)) for d in documents for s in sentences(d.text)
        ),
        vary=tuple(len(prompts.with_context(request.open_book)) for request in requests),
    )
    programs = programs_of(config, make_mesh(config), sizes, jax.default_backend())
    listed = [x for x in programs if x.phase == "study"]
    assert {"study: suggest", "study: vary"} <= {x.name for x in listed}
    check_programs(listed, calls)


def test_expected_exchanges_fill_the_multiple():
    config = tiny()
    settings = load_experiment(config).settings
    kinds = config.study.variants
    written = [e for e in expected_sizes(settings, 2, 0, 4).exchanges if e.kind in kinds]
    assert len(written) == 2 * 3  # 0.1 of 200 tokens, 8 at a time
    assert {len(e.completion) for e in written} == {8} and {e.document for e in written} == {0, 1}
    assert [e.kind for e in written[:3]] == [*kinds[:3]]
