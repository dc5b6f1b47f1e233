"""Llama-3-8B-Instruct, the paper's larger model for class-incremental learning, for 16 TPU v5e
chips.

    python launch.py --config=configs/seeding_llama3_8b.py --config.data.documents=my_notes/
    python launch.py --config=configs/seeding_llama3_8b.py --aot=v5e:4x4
"""

import pathlib
import runpy

HERE = pathlib.Path(__file__).parent


def get_config():
    """The settings of seeding_8b."""
    c = runpy.run_path(str(HERE / "seeding_8b.py"))["get_config"]()
    c.model.name = "meta-llama/Meta-Llama-3-8B-Instruct"
    return c
