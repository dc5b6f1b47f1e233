"""Two, three or four levels on a small random model: a quick try of the levels, nothing worth
knowing is learnt.

    python launch.py --config=configs/levels_tiny.py:3

score   not meaningful: the weights are random
time    not measured
memory  not measured
device  2 CPU cores; nothing is downloaded
"""

from configs import levels_smollm2, sleep_tiny


def get_config(levels: str = "3"):
    """The levels of levels_smollm2 over four days, with the model and the sizes of sleep_tiny.

    Args:
      levels: `2`, `3` or `4`.
    """
    c = sleep_tiny.get_config()
    c.data.documents, c.data.episodes = "samples:4", 4
    c.memory.update(levels_smollm2.get_config(levels).memory)
    c.memory.ranks = (4,)
    c.memory.stride = 64
    return c
