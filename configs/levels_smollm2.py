"""SmolLM2-135M reads the sample documents over several days, with two, three or four levels.

python launch.py --config=configs/levels_smollm2.py:3 --plan=14
python launch.py --config=configs/levels_smollm2.py:3
"""

from sleep_jax.config import default

CHUNKS = {"2": (2, 0), "3": (1, 2, 0), "4": (1, 2, 4, 0)}  # days
SLOTS = {"2": (2, 4), "3": (1, 2, 4), "4": (1, 2, 2, 4)}


def get_config(levels: str = "3"):
    """Six days of one document each; every night the context is consolidated into level 1.

    Args:
      levels: `2`, `3` or `4`.
    """
    if levels not in CHUNKS:
        raise ValueError(f"levels={levels!r}; choose 2, 3 or 4, as in levels_smollm2.py:3")
    c = default()
    c.data.documents, c.data.episodes = "samples:6", 6
    c.memory.periods, c.memory.slots = CHUNKS[levels], SLOTS[levels]
    c.memory.learning_rates = (0.1,) * (len(CHUNKS[levels]) - 1) + (0.0,)
    c.seeding.steps = 40
    c.seeding.rollouts_from = 0.7  # of 40 updates 12: three whole rounds
    return c
