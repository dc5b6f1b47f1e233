"""Llama-3-8B-Instruct, the paper's larger model for class-incremental learning, for 16 TPU v5e
chips.

    python launch.py --config=configs/seeding_llama3_8b.py --config.data.documents=my_notes/
    python launch.py --config=configs/seeding_llama3_8b.py --aot=v5e:4x4

score   not measured: it has been compiled for TPUs, never run on one
time    at least 372 s a night (compiled ahead of time at an earlier commit; a lower bound), an
        update at least 0.56 s, its MFU at most 61 %
memory  12.3 of 16 GiB a chip
device  16 TPU v5e chips; the weights need a Hugging Face account that has accepted the licence
"""

from configs import seeding_8b


def get_config():
    """The settings of seeding_8b."""
    c = seeding_8b.get_config()
    c.model.name = "meta-llama/Meta-Llama-3-8B-Instruct"
    return c
