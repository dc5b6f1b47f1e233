"""Two, three or four levels on a small random model, in a minute: nothing worth knowing is learnt.

python launch.py --config=configs/levels_tiny.py:3
"""

import pathlib
import runpy

HERE = pathlib.Path(__file__).parent


def get_config(levels: str = "3"):
    """The days and levels of levels_smollm2 with the model and the sizes of sleep_tiny.

    Args:
      levels: `2`, `3` or `4`.
    """
    c = runpy.run_path(str(HERE / "sleep_tiny.py"))["get_config"]()
    several = runpy.run_path(str(HERE / "levels_smollm2.py"))["get_config"](levels)
    c.data.documents, c.data.episodes = "samples:4", 4
    c.memory.update(several.memory)
    c.memory.ranks = (4,)
    c.memory.stride = 64
    return c
