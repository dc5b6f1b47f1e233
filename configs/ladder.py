"""The paper's ladder of periods, 1k -> 5k -> 10k tokens, on SmolLM2-135M-Instruct: four levels.

    python launch.py --config=configs/ladder.py --plan=50000
    python launch.py --config=configs/ladder.py --config.data.documents=my_notes/

score   little to expect: with plain gradient steps (Eq. 2) the wake weights lower the loss of the
        stream by 0.002 nats a token at most, so the levels have next to nothing to hand over
        (experiments/two_days; 6,000 and 13,493 tokens of Shakespeare, one seed)
time    not measured
memory  not measured
device  2 CPU cores; the model is downloaded
"""

from sleep_jax.config import default


def get_config():
    """Wake weights learn at every period; each level is consolidated into the next one."""
    c = default()
    c.memory.unit = "tokens"
    c.memory.periods = (1000, 5000, 10000, 0)
    c.memory.slots = (0, 5, 2, 8)
    c.memory.optimizers = ("adam",)
    c.memory.learning_rates = ("auto", "auto", "auto", 0.0)
    c.memory.updates_per_period = (4, 5, 4, 1)  # an update every 250, 1,000 and 2,500 tokens
    c.memory.stride = 250
    c.memory.from_context = False
    c.wake.context = 1000
    return c
