"""All phases, in the order of a day."""

from sleep_jax.phases.consolidate import CONSOLIDATE, MERGE
from sleep_jax.phases.evaluate import EVALUATE
from sleep_jax.phases.learn import LEARN
from sleep_jax.phases.phase import Phase
from sleep_jax.phases.select import SELECT
from sleep_jax.phases.study import STUDY
from sleep_jax.phases.trial import TRY
from sleep_jax.phases.wake import WAKE
from sleep_jax.phases.write import WRITE

PHASES: dict[str, Phase] = {
    phase.name: phase
    for phase in (WAKE, STUDY, MERGE, CONSOLIDATE, WRITE, SELECT, TRY, LEARN, EVALUATE)
}
