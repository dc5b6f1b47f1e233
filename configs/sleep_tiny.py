"""The whole cycle on a small random model: a quick try of the program, nothing worth knowing is
learnt.

    python launch.py --config=configs/sleep_tiny.py

score   not meaningful: the weights are random
time    a minute or two on 2 CPU cores: 67 s of CPU time, most of it to compile
memory  1.2 GiB
device  2 CPU cores; nothing is downloaded
"""

from sleep_jax.config import default


def get_config():
    """Two short documents, four updates of a consolidation, two on dreams."""
    c = default()
    c.model.name = "tiny"
    c.model.dtype = "float32"
    c.data.documents = "samples:2"
    c.memory.slots = (2,)
    c.memory.ranks = (4,)
    c.study.completions = 1
    c.study.questions = 1
    c.study.max_question_tokens = 8
    c.study.max_answer_tokens = 8
    c.gate.divergence = c.gate.anchors = 1e9  # every night is accepted
    c.seeding.steps = 4
    c.seeding.warmup = 1
    c.seeding.max_length = 384
    c.seeding.max_target_length = 288
    c.seeding.num_generations = 2
    c.seeding.max_new_tokens = 8
    c.seeding.judge = "agreement"
    c.data.chunk_tokens = 200  # bytes: the tokenizer of the tiny model has one token a byte
    c.dreaming.instructions = ("paraphrase",)
    c.dreaming.max_new_tokens = 16
    c.dreaming.baseline = "untrained"  # no dream of random weights adds to its passage
    c.dreaming.steps = 2
    c.dreaming.trial.rank = 2
    c.dreaming.trial.epochs = 2
    c.evaluation.max_new_tokens = 8
    return c
