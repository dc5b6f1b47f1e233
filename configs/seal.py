"""SEAL (Zweiger et al. 2025, knowledge incorporation) as a configuration of dreaming: no selection
by gradients, no random expert; of five dreams about a document the best one is learnt.

    python launch.py --config=configs/seal.py

score   not measured. SEAL as a baseline of its own (LoRA instead of slots) is in
        experiments/knowledge_incorporation
time    not measured; each dream is tried by three trials of ten epochs, a line at a time
memory  not measured
device  2 CPU cores; the model is downloaded
"""

import math

from configs import sleep_smollm2


def get_config():
    """The night of sleep_smollm2 with SEAL's dreams and trials.

    Theirs: a trial is a LoRA of rank 32, alpha 64, on queries and values, trained for ten epochs at
    1e-3 on one sequence at a time, each a line of the dream or the passage; its score is the mean
    over three seeds; the best of five dreams is learnt, whether it beats the model that wrote it or
    not.

    Ours differs: a dream has 96 tokens, not 8,192; what is no dream is rejected; tau counts replies
    that contain the answer, where theirs asks a larger model as judge; of five dreams that all
    score nothing none is learnt; and the best is learnt into the night's slot together with the
    night's study data, not into an adapter of its own.
    """
    c = sleep_smollm2.get_config()
    c.dreaming.instructions = ("implications",)
    c.dreaming.num_generations = 5
    c.dreaming.temperature, c.dreaming.top_p = 1.0, 0.95
    c.dreaming.measure = "random"
    c.dreaming.keep_top, c.dreaming.keep_random = 5, 0
    c.dreaming.reward, c.dreaming.margin = "top_1", -math.inf
    c.dreaming.baseline = "untrained"
    c.dreaming.scorer, c.dreaming.held_out = "contains", 4
    c.dreaming.ce_coef = 1.0  # a divergence alone would hold the writer to what it was
    c.dreaming.trial.rank, c.dreaming.trial.alpha = 32, 64.0
    c.dreaming.trial.targets = ("q", "v")
    c.dreaming.trial.epochs, c.dreaming.trial.batch_size = 10, 1
    c.dreaming.trial.learning_rate, c.dreaming.trial.schedule = 1e-3, "linear"
    c.dreaming.trial.split_lines = True
    c.dreaming.trial.seeds = 3
    return c
