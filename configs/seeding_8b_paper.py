"""Qwen3-8B with the paper's learning rate as well, 5e-6 (Table 5): for the task that it is reported
for, reasoning in maths, where a night shifts how a model reasons and new facts are not the point.

    python launch.py --config=configs/seeding_8b_paper.py --config.data.documents=my_problems/

score   not measured: it has been compiled for TPUs with another rate, never run on one
time    as seeding_8b
memory  as seeding_8b
device  16 TPU v5e chips

The paper reports the rate for a LoRA adapter; a slot too begins with B = 0, and 100 updates of Adam
at 5e-6 move each weight of B by 3e-4 at most. That is 1/375 of what the rule of `"auto"` allows, so
a night learns next to nothing of a document, and with a gate on the divergence it is refused before
its first update. The paper has no such gate, and neither has this preset; the anchors stay gated.
"""

import math

from configs import seeding_8b


def get_config():
    """The settings of seeding_8b with the paper's rate, and no gate on the divergence."""
    c = seeding_8b.get_config()
    c.seeding.learning_rate = 5e-6
    c.gate.divergence = math.inf
    return c
