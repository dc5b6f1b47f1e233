"""The random streams of the phases, by name."""

import jax

from sleep_jax.experiment import Experiment
from sleep_jax.run_schedule import ScheduledPhase

# Numbers that are folded into the key of a phase, one after the other. A checkpointed run is
# resumed with these, so they stay. The phases of one dreaming share a key
# (`ScheduledPhase.rng_stream`): select and try begin with the same adapters.
STREAMS = {
    "study": {"questions": (3, 0), "rehearsals": (3, 1), "earlier": (3, 2), "variants": (3, 3)},
    "merge": {"transaction": (1, 0), "rehearsals": (1, 1), "earlier": (1, 2), "updates": (1, 4)},
    "consolidate": {"transaction": (2,), "rehearsals": (3,), "earlier": (5,), "updates": (4,)},
    "write": {"dreams": (0,), "random_expert": (3,)},
    "select": {"adapters": (1,)},
    "try": {"adapters": (1,), "row_order": (4,)},
    "learn": {"updates": (2,)},
}

GROWTH = 2**31 - 1  # folded into the seed, for slots that a run is given on the way


def key_of(experiment: Experiment, scheduled: ScheduledPhase, stream: str) -> jax.Array:
    """The PRNG key of a stream of a phase."""
    key = jax.random.fold_in(jax.random.key(experiment.config.seed), scheduled.rng_stream)
    for number in STREAMS[scheduled.phase][stream]:
        key = jax.random.fold_in(key, number)
    return key
