"""Qwen3-1.7B, the smaller model of the paper's table on reasoning, for 4 TPU v5e chips.

python launch.py --config=configs/seeding_1p7b.py --config.data.documents=my_notes/
python launch.py --config=configs/seeding_1p7b.py --aot=v5e:2x2
"""

import pathlib
import runpy

HERE = pathlib.Path(__file__).parent


def get_config():
    """The settings of seeding_8b, cut to what four chips hold."""
    c = runpy.run_path(str(HERE / "seeding_8b.py"))["get_config"]()
    c.model.name = "Qwen/Qwen3-1.7B"
    c.mesh.slice = "v5e:2x2"
    c.seeding.accumulate = 2
    c.dreaming.trial.microbatch = 8  # 12.9 of 16 GiB a chip; with 16 it asks for 20
    return c
