"""SEAL (Zweiger et al. 2025, knowledge incorporation) as a configuration of dreaming: no gradients
select, no random expert writes, and of five dreams about a document the best one is learnt.

python launch.py --config=configs/seal.py
"""

import math
import pathlib
import runpy

HERE = pathlib.Path(__file__).parent


def get_config():
    """The night of sleep_smollm2 with SEAL's dreams and trials.

    Their trial: LoRA of rank 32, alpha 64, on queries and values; ten epochs at 1e-3, a sequence at
    a time, a line of the dream each, the passage among them; the mean over three seeds; the best of
    five is learnt, whether it beats the model that wrote it or not. Ours: a dream of 96 tokens, not
    8,192; what is no dream is rejected; tau, which is theirs to a larger model as judge, counts
    replies that hold the answer; of five that are all as good as none, none is learnt; and the best
    is learnt into the night's slot, beside what the night studied, not by an adapter of its own.
    """
    c = runpy.run_path(str(HERE / "sleep_smollm2.py"))["get_config"]()
    c.dreaming.instructions = ("implications",)
    c.dreaming.count = 5
    c.dreaming.temperature, c.dreaming.top_p = 1.0, 0.95
    c.dreaming.measure = "random"
    c.dreaming.top, c.dreaming.random = 5, 0
    c.dreaming.reward, c.dreaming.margin = "top_1", -math.inf
    c.dreaming.baseline = "untrained"
    c.dreaming.scorer, c.dreaming.held_out = "contains", 4
    c.dreaming.ce_coef = 1.0  # a divergence alone would hold the writer to what it was
    c.dreaming.trial.rank, c.dreaming.trial.alpha = 32, 64.0
    c.dreaming.trial.targets = ("q", "v")
    c.dreaming.trial.epochs, c.dreaming.trial.batch_size = 10, 1
    c.dreaming.trial.learning_rate, c.dreaming.trial.schedule = 1e-3, "linear"
    c.dreaming.trial.split = True
    c.dreaming.trial.seeds = 3
    return c
