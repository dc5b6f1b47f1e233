"""Qwen3-8B with the paper's settings (Table 5): learning rate 5e-6, batches of 32 rollouts, 100
steps; rank 64 and 5 slots; trials of LoRA rank 64, alpha 128. For 16 TPU v5e chips.

    python launch.py --config=configs/seeding_8b.py --config.data.documents=my_notes/
    python launch.py --config=configs/seeding_8b.py --aot=v5e:4x4
    python launch.py --config=configs/seeding_8b.py --dry_run

The weights come from the Hugging Face cache or hub, or from `--config.model.name=FOLDER`.

Qwen3 replies at once; with `--config.model.thinking` it thinks first, for up to
`model.thought_tokens`. What follows the thought is graded, and learnt of answers and of what dreams
say; how a dream is written, and what is rehearsed, is learnt with the thought. A part of
1536 tokens, a dream about it of 384 and its thought of 1024 make a row longer than 2048 tokens:

    python launch.py --config=configs/seeding_8b.py --config.model.thinking \\
        --config.seeding.max_length=3328
"""

from sleep_jax.config import default


def get_config():
    """Sizes for an accelerator; the paper gives no alpha, lambda, gamma or z0: those stay ours."""
    c = default()
    c.model.name = "Qwen/Qwen3-8B"
    c.model.dtype = "bfloat16"
    c.model.remat = "full"
    c.mesh.slice = "v5e:4x4"
    c.mesh.data, c.mesh.fsdp, c.mesh.tensor = 1, -1, 1
    c.data.chunk_tokens = 1536
    c.memory.slots = (5,)
    c.memory.ranks = (64,)
    c.seeding.steps = 100
    c.seeding.learning_rate = 5e-6
    c.seeding.batch_size = 16
    c.seeding.max_length = 2048
    c.seeding.max_target_length = 1792
    c.seeding.num_prompts = 4  # x group 8: 32 rollouts an update
    c.seeding.num_generations = 8
    c.seeding.max_new_tokens = 256
    c.study.max_answer_tokens = 256
    c.dreaming.max_new_tokens = 384
    c.dreaming.trial.rank = 64
    c.dreaming.trial.alpha = 128.0
    c.dreaming.trial.microbatch = 16  # one on every chip
    return c
