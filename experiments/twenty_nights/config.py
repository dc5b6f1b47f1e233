"""A short document of invented facts a day: SmolLM2-135M-Instruct reads it and sleeps after it.

python experiments/twenty_nights/facts.py --seed 10 --count 3 --out facts.jsonl
python launch.py --config=experiments/twenty_nights/config.py:facts.jsonl
"""

from sleep_jax.config import default

# What sleep does otherwise, by field.
ARMS = {
    "sleep": {},
    "sleep-no-null-space": {"seeding.null_space": 0.0, "seeding.null_space_spare": 0.0},
    "sleep-no-earlier-questions": {"study.earlier_questions": 0},
    "sleep-screened": {"study.is_screened": True},
}
OF_STREAM = {
    "facts": ["sleep", "sleep-no-null-space", "sleep-no-earlier-questions"],
    "changes": ["sleep", "sleep-no-earlier-questions"],
    "hostile": ["sleep", "sleep-screened"],
}


def get_config(documents: str = "facts.jsonl", nights: int = 3, arm: str = "sleep"):
    """A night that fits a few minutes of one core.

    Half of what an update learns was known before: replies to general topics, questions about
    these with the reply in view, and free texts, by the base; and questions of earlier days.

    Args:
      documents: the JSONL file that `facts.py` writes.
      nights: as many as it has documents.
      arm: of `ARMS`.
    """
    c = default()
    c.data.documents, c.data.episodes = documents, nights
    c.memory.slots = (nights,)
    c.model.remat = "none"
    c.study.questions, c.study.answer_in_sentence = 8, True
    c.study.rehearsals, c.study.readings, c.study.max_rehearsal_tokens = 1, 1, 96
    c.study.free_texts = 24
    c.study.earlier_questions = 32
    c.seeding.teacher = c.seeding.rehearsal_teacher = "base"
    c.seeding.known_share = 0.5
    c.seeding.steps = 60
    c.seeding.batch_size, c.seeding.max_length, c.seeding.max_target_length = 2, 320, 224
    c.seeding.null_space, c.seeding.null_space_spare = 0.95, 0.2
    c.seeding.num_prompts = c.dreaming.steps = 0
    c.gate.anchors = 1.0  # every night is measured, none rolled back
    c.evaluation.max_new_tokens = 24
    c.update_from_flattened_dict(ARMS[arm])
    return c
