"""Qwen3-8B for 16 TPU v5e chips with the paper's sizes (Table 5): 32 rollouts an update, 100
updates, 5 slots of rank 64, trials of LoRA rank 64 and alpha 128.

    python launch.py --config=configs/seeding_8b.py --config.data.documents=my_notes/
    python launch.py --config=configs/seeding_8b.py --aot=v5e:4x4
    python launch.py --config=configs/seeding_8b.py --dry_run

score   not measured: it has been compiled for TPUs, never run on one
time    at least 107 s a night without dreams and evaluation (compiled ahead of time; a lower
        bound), an update at least 0.50 s, its MFU at most 70 %
memory  13.3 of 16 GiB a chip on v5e:4x4, 25.6 of 32 GiB on v6e:2x4; v5e:2x4 is too small
device  16 TPU v5e chips

The learning rate is not the paper's 5e-6 but the one that follows rank and width, 1.9e-3: from
B = 0, 100 updates at 5e-6 cannot learn a document (`seeding_8b_paper` has them, and says why).

The weights come from the Hugging Face cache or hub, or from `--config.model.name=FOLDER`.

Qwen3 replies at once; with `--config.model.thinking` it thinks first, for up to
`model.thought_tokens`. Rewards and answers count what follows the thought. A part of 1536 tokens, a
dream about it of 384 and its thought of 1024 make a row longer than 2048 tokens:

    python launch.py --config=configs/seeding_8b.py --config.model.thinking \\
        --config.seeding.max_length=3328
"""

from sleep_jax.config import default


def get_config():
    """Sizes for an accelerator; the paper gives no alpha, lambda, gamma or z0: those are the
    defaults.
    """
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
    c.seeding.learning_rate = "auto"
    c.seeding.batch_size = 16
    c.seeding.max_length = 2048
    c.seeding.max_target_length = 1792
    c.seeding.num_prompts = 4  # x num_generations = 32 rollouts an update
    c.seeding.num_generations = 8
    c.seeding.max_new_tokens = 256
    c.study.max_answer_tokens = 256
    c.dreaming.max_new_tokens = 384
    c.dreaming.trial.rank = 64
    c.dreaming.trial.alpha = 128.0
    c.dreaming.trial.microbatch = 16  # one on every chip
    return c
