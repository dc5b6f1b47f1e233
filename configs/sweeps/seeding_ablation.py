"""What each part of Knowledge Seeding is worth: SmolLM2-135M, two days of one document, 3 seeds.

python launch.py --sweep=configs/sweeps/seeding_ablation.py
python launch.py --sweep=configs/sweeps/seeding_ablation.py --sweep_print
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
    c.seeding.rollouts_from = 0.5
    c.seeding.threshold = (
        1.0  # any likeness pays: with less, most groups of rollouts tie at nothing
    )
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
    each = [hyper.variant(name, settings) for name, settings in variants.items()]
    return hyper.product([hyper.seeds(3), hyper.chainit(each)])
