"""Variants in the study phase: they change nothing else, and are resumed batch by batch."""

import runpy

import pytest
from articulate import suggest_one

from sleep_jax import lifecycle
from sleep_jax.experiment import load_experiment
from sleep_jax.phases.run_state import PhaseLogger
from sleep_jax.phases.study import studied, study
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.runtime.metrics import MetricWriter
from sleep_jax.runtime.mid_phase import MidPhaseCheckpoint
from sleep_jax.runtime.preemption import Preempted
from sleep_jax.sampling import generate as sampling
from sleep_jax.study import variants


class Impatient:
    """Asks to stop at every chance."""

    def should_stop(self):
        return True


def tiny(**changes):
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.study.questions, config.study.rehearsals = 1, 1
    config.study.variants, config.study.max_variant_tokens = ("summary", "strategy"), 8
    config.study.update(changes)
    return load_experiment(config)


def phase_of(experiment, writer, mid_phase=None):
    logger = PhaseLogger(writer, "study", quiet=True, mid_phase=mid_phase)
    scheduled = next(x for x in experiment.schedule if x.phase == "study")
    return study(experiment, lifecycle.init_run_state(experiment), logger, scheduled)


@pytest.fixture
def fluent(monkeypatch):
    """Whatever the random model writes is a strategy, or passes for a text."""
    monkeypatch.setattr(variants, "suggest_strategies", suggest_one)
    monkeypatch.setattr(variants, "sentences_to_keep", lambda text, *_: text or "Sung.")
    monkeypatch.setattr(variants, "dream_rejection_reason", lambda *_: None)


@pytest.mark.slow
def test_variants_change_nothing_else(tmp_path, fluent):
    with MetricWriter(tmp_path) as writer:
        without, with_them = tiny(), tiny(multiple=0.05)
        before, after = phase_of(without, writer), phase_of(with_them, writer)
    written = dict(after.day(0)["study"])
    assert len(written.pop("variants")) >= 2
    assert {**written, "variants": []} == before.day(0)["study"]
    exchanges = studied(with_them, after, 0)
    kinds = [e.kind for e in exchanges]
    assert kinds.index("summary") < kinds.index("rehearse") and "strategy" in kinds
    plain = [e for e in exchanges if e.kind not in ("summary", "strategy")]
    assert plain == studied(without, before, 0)
    [noted] = after.record["phases"].values()
    assert noted["summary"] + noted["strategy"] == len(exchanges) - len(plain)
    assert noted["variant_tokens"] == sum(
        len(e.completion) for e in exchanges if e.kind in ("summary", "strategy")
    )


def test_study_stopped_among_variants_ends_with_the_same_bits(tmp_path, fluent, monkeypatch):
    batches, sample = [], sampling.sample

    def counted(cfg, how, *rest):
        batches.append(how)
        return sample(cfg, how, *rest)

    monkeypatch.setattr(sampling, "sample", counted)
    experiment, stops = tiny(multiple=0.2), []
    with MetricWriter(tmp_path / "metrics") as writer:
        whole, drawn = phase_of(experiment, writer), batches.copy()
        batches.clear()
        with PhaseCheckpoints(tmp_path / "mid_phase", keep=2) as saved:
            while True:
                mid_phase = MidPhaseCheckpoint(saved, "study", every=0, watch=Impatient())
                try:
                    again = phase_of(experiment, writer, mid_phase)
                    break
                except Preempted as stopped:
                    stops.append(stopped.where)
    assert sum(how == variants.writing(experiment.settings.study, how.eos_ids) for how in drawn) > 1
    assert len(stops) == len(drawn) and batches == drawn  # none of them twice
    assert again.record == whole.record and whole.day(0)["study"]["variants"]
