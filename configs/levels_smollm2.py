"""SmolLM2-135M-Instruct reads the sample documents over six days, with two, three or four levels.

    python launch.py --config=configs/levels_smollm2.py:3 --plan=14
    python launch.py --config=configs/levels_smollm2.py:3

score   not measured as it is. Two levels, two days of one document, ten updates on dreams, six
        questions a day, one seed: day 1 0 % -> 67 % after its night and 50 % after the next one,
        day 2 33 % (experiments/two_days)
time    not measured
memory  8.3 GiB at most in that run
device  2 CPU cores; the model is downloaded
"""

from sleep_jax.config import default

PERIODS = {"2": (2, 0), "3": (1, 2, 0), "4": (1, 2, 4, 0)}  # days
SLOTS = {"2": (2, 4), "3": (1, 2, 4), "4": (1, 2, 2, 4)}


def get_config(levels: str = "3"):
    """Six days of one document each; every night the context is consolidated into level 1.

    Args:
      levels: `2`, `3` or `4`.
    """
    if levels not in PERIODS:
        raise ValueError(f"levels={levels!r}; choose 2, 3 or 4, as in levels_smollm2.py:3")
    c = default()
    c.data.documents, c.data.episodes = "samples:6", 6
    c.memory.periods, c.memory.slots = PERIODS[levels], SLOTS[levels]
    c.memory.optimizers = ("adam",)
    c.memory.learning_rates = ("auto",) * (len(PERIODS[levels]) - 1) + (0.0,)
    c.seeding.steps = 40
    c.seeding.rollout_start = 0.7  # the last 12 of 40 updates: three whole rounds
    return c
