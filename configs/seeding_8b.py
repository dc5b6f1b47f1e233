"""Qwen3-8B with the paper's optimisation settings (Table 5): learning rate 5e-6, 100 steps, rank
64, 5 slots.

    python launch.py --config=configs/seeding_8b.py --config.data.documents=my_notes/

The weights come from the Hugging Face cache or hub, or from `--config.model.name=FOLDER`. They and
a night's activations need about 40 GB of accelerator memory in bfloat16.
"""

from sleep_jax.config import default


def get_config():
    """Sizes for an accelerator; the paper gives no alpha, lambda, gamma or z0: those stay ours."""
    c = default()
    c.model.name = "Qwen/Qwen3-8B"
    c.data.chunk_tokens = 1536
    c.memory.ranks = (64,)
    c.seeding.steps = 100
    c.seeding.learning_rate = 5e-6
    c.seeding.rows = 16
    c.seeding.time = 2048
    c.seeding.scored = 1792
    c.seeding.dreams = 4
    c.seeding.max_new_tokens = 256
    c.study.max_answer_tokens = 256
    c.dreaming.max_new_tokens = 384
    return c
