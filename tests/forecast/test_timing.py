"""An estimate of time from a few timed steps."""

import dataclasses
import runpy

import jax
import pytest

from sleep_jax.forecast import dry_run, timing
from sleep_jax.forecast.dry_run import plan_of
from sleep_jax.forecast.programs import flops_of, is_of_seeding, programs_of, work_by_kind
from sleep_jax.forecast.timing import TimeEstimate, minutes, seconds_of, time_steps
from sleep_jax.runtime.mesh import make_mesh


@pytest.fixture(scope="module")
def config():
    return runpy.run_path("configs/sleep_tiny.py")["get_config"]()


@pytest.fixture(scope="module")
def plan(config):
    return plan_of(config)


@pytest.fixture(scope="module")
def programs(config, plan):
    return programs_of(config, make_mesh(config), plan.sizes, jax.default_backend())


def test_time_steps_times_most_of_the_work_and_applies_its_rate_to_the_rest(
    config, plan, programs, monkeypatch
):
    timed = []

    def seconds(program):
        timed.append(program)
        return 1e-9 * flops_of(program, plan.cfg)

    monkeypatch.setattr(timing, "_seconds", seconds)
    rates = time_steps(config, plan.cfg, plan.sizes)
    work = work_by_kind(programs, plan.cfg)
    names = [program.function.__name__ for program in timed]
    assert {*names} == {*rates} - {""} and len({*names}) == len(names)
    assert sum(work[name] for name in names) >= timing.TIMED * work.total()
    assert all(rate == pytest.approx(1e-9) for rate in rates.values())
    flops = [flops_of(program, plan.cfg) for program in timed]
    assert flops == sorted(flops)
    assert {"train_adapters", "sample"} <= {*names}


def test_time_steps_estimates_a_step_that_would_take_too_long(config, plan, monkeypatch):
    timed = []
    monkeypatch.setattr(timing, "_seconds", lambda p: timed.append(p) or 1e6)
    rates = time_steps(config, plan.cfg, plan.sizes)
    assert len(timed) == 1 and len(rates) == 2
    monkeypatch.undo()
    monkeypatch.setattr(timing, "memory_at_hand", lambda: 10.0)
    with pytest.raises(MemoryError):
        time_steps(config, plan.cfg, plan.sizes)


@pytest.mark.parametrize("kind", ["sample", "seeding_step"])
def test_seconds_times_a_step_without_weights(kind, plan, programs, monkeypatch):
    program = next(p for p in programs if p.function.__name__ == kind)
    results = []

    def kept(*args):
        results.append(program.function(*args))
        return results[-1]

    kept.__name__ = kind
    assert timing._seconds(dataclasses.replace(program, function=kept)) > 0
    assert len(results) == 2
    if kind == "sample":  # it writes to the end, as the estimate says
        assert (
            results[-1].mask.all() and results[-1].tokens.shape[1] == program.args[1].max_new_tokens
        )
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(results))


def test_time_estimate_follows_the_first_updates(plan, programs):
    lines = []
    time_estimate = TimeEstimate(programs, plan.cfg, 3, lines.append)
    update = next(p for p in programs if p.name == "consolidate: update")
    study = sum(p.calls * flops_of(p, plan.cfg) for p in programs if p.phase == "study")
    time_estimate.add_study(2e-9 * study)
    for seconds in (99.0, *[1e-9 * flops_of(update, plan.cfg)] * 8):
        time_estimate.add_update(1, seconds)
    night = seconds_of(programs, plan.cfg, {"": 1e-9, "sample": 2e-9})
    [line] = lines
    assert (
        f"a day and its night take about {minutes(night)}, {minutes(2 * night)} for the 2 " in line
    )


def test_time_estimate_scales_with_seeded_slots(plan, programs):
    once, thrice = (seconds_of(programs, plan.cfg, {"": 1e-9}, n) for n in (1, 3))
    again = [p for p in programs if is_of_seeding(p)]
    assert {"consolidate: update", "study: rehearse"} <= {p.name for p in again}
    more = sum(p.calls * flops_of(p, plan.cfg) for p in again)
    assert thrice - once == pytest.approx(2e-9 * more)
    lines = []
    time_estimate = TimeEstimate(programs, plan.cfg, 1, lines.append, 3.0)
    for _ in range(6):
        update = next(p for p in programs if p.name == "consolidate: update")
        time_estimate.add_update(0, 1e-9 * flops_of(update, plan.cfg))
    assert f"a day and its night take about {minutes(thrice)}" in lines[0]


@pytest.mark.parametrize("error", [MemoryError, jax.errors.JaxRuntimeError])
def test_dry_run_says_where_a_timed_step_does_not_fit(error, config, plan, monkeypatch):
    def fail(*_):
        raise error("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")

    monkeypatch.setattr(dry_run, "time_steps", fail)
    lines = [x for x in dry_run.dry_run(config, "", plan) if x.startswith("time")]
    assert lines == ["time        unknown: a step would fill the memory of this machine"]


def test_dry_run_raises_other_errors_of_a_timed_step(config, plan, monkeypatch):
    def fail(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: a mistake of ours")

    monkeypatch.setattr(dry_run, "time_steps", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        list(dry_run.dry_run(config, "", plan))


def test_memory_at_hand_is_what_devices_have_left(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 100, "bytes_in_use": 30}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(), Device()])
    assert timing.memory_at_hand() == 140


def test_minutes_as_text():
    assert [minutes(s) for s in (6, 90, 7200)] == ["0.1 min", "1.5 min", "2.0 h"]
