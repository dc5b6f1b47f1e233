"""The record of each phase."""

from sleep_jax.phases.hours import DAY, HOURS, MORNING, NIGHT
from sleep_jax.phases.registry import PHASES
from sleep_jax.phases.rng_streams import STREAMS


def test_registry_has_every_phase_in_the_order_of_its_hours():
    assert list(PHASES) == list(HOURS)
    assert {phase.hour for phase in PHASES.values()} == {DAY, NIGHT, MORNING}
    assert [PHASES[name].hour for name in ("wake", "learn", "evaluate")] == [DAY, NIGHT, MORNING]


def test_phases_that_sample_or_update_are_resumable():
    resumable = {name for name, phase in PHASES.items() if phase.resumable}
    assert resumable == {"study", "merge", "consolidate", "write", "learn"}


def test_streams_belong_to_phases():
    assert set(STREAMS) <= set(PHASES)
