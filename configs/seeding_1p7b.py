"""Qwen3-1.7B, the smaller model of the paper's table on reasoning, for 4 TPU v5e chips.

    python launch.py --config=configs/seeding_1p7b.py --config.data.documents=my_notes/
    python launch.py --config=configs/seeding_1p7b.py --aot=v5e:2x2

score   not measured: it has been compiled for TPUs, never run on one
time    at least 284 s a night (compiled ahead of time at an earlier commit; a lower bound), an
        update at least 0.56 s, its MFU at most 62 %
memory  12.9 of 16 GiB a chip
device  4 TPU v5e chips
"""

from configs import seeding_8b


def get_config():
    """The settings of seeding_8b, cut to what four chips hold."""
    c = seeding_8b.get_config()
    c.model.name = "Qwen/Qwen3-1.7B"
    c.mesh.slice = "v5e:2x2"
    c.seeding.accumulate = 2
    c.dreaming.trial.microbatch = 8  # with 16 a trial needs 20 of 16 GiB a chip
    return c
