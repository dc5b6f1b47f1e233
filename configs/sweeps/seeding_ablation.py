"""What each part of Knowledge Seeding is worth: SmolLM2-135M-Instruct, two days of one
document, three seeds.

    python launch.py --sweep=configs/sweeps/seeding_ablation.py
    python launch.py --sweep=configs/sweeps/seeding_ablation.py --sweep_print

score   12 questions, three seeds: full seeding 31 %, no imitation 28 %, no semantic reward 36 %, no
        expansion 25 %, off-policy only 33 %; of earlier days no expansion keeps 6 %, full seeding
        33 % (experiments/seeding_ablation has intervals and what they allow to say)
time    not measured; fifteen runs
memory  not measured
device  2 CPU cores; the model is downloaded
"""

from sleep_jax.config import default


def get_config():
    """Two short nights and no dreams: many small updates, imitation for the second half of them."""
    c = default()
    c.data.documents, c.data.episodes = "samples:2", 2
    c.study.rehearsals = 1
    c.seeding.steps = 40
    c.seeding.batch_size = 2
    c.seeding.num_generations = 4
    c.seeding.rollout_start = 0.5
    # Any similarity is rewarded: with less, all rollouts of most groups have a reward of 0.
    c.seeding.threshold = 1.0
    c.dreaming.steps = 0
    return c


def get_sweep(hyper):
    """The rows of the paper's ablation, and one without any student rollout."""
    variants = {
        "full seeding": {},
        "no imitation": {"config.seeding.alpha": 1.0},
        "no semantic reward": {"config.seeding.gamma": 0.0},
        # The second night trains the slot of the first.
        "no expansion": {"config.memory.slots": (1,), "config.memory.on_full": "reuse"},
        "off-policy only": {"config.seeding.alpha": 1.0, "config.seeding.lam": 0.0},
    }
    rows = [hyper.variant(name, settings) for name, settings in variants.items()]
    return hyper.product([hyper.seeds(3), hyper.chainit(rows)])
