"""Days of two sample documents each: SmolLM2-135M-Instruct reads them, sleeps after each day, and
is asked about all days so far.

    python launch.py --config=experiments/six_nights/config.py
"""

import re

from sleep_jax.config import default

REPORTED = "samples:3-14"
PER_DAY = 2  # documents


def get_config(documents: str = REPORTED):
    """Nights that last: each day is taught by the base with the documents in view; half of what is
    learnt was known before: replies, free texts and reading by the base, and earlier questions by
    the memory before the day. A new slot does not see most of that.

    Args:
      documents: a range of the sample documents, two for each day.
    """
    if not (span := re.fullmatch(r"samples:(\d+)-(\d+)", documents)):
        raise ValueError(f"documents={documents!r}; give a range of samples, as in {REPORTED}")
    first, last = map(int, span.groups())
    days = (last - first + 1) // PER_DAY
    c = default()
    c.data.documents, c.data.episodes = documents, days
    c.memory.slots = (days,)
    c.model.remat = "none"
    c.study.questions, c.study.answer_in_sentence = 8, True
    c.study.rehearsals = c.study.readings = 1
    c.study.free_texts, c.study.max_rehearsal_tokens = 48, 128
    c.study.earlier_questions = 160
    c.seeding.teacher = c.seeding.rehearsal_teacher = "base"
    c.seeding.steps, c.seeding.known_share = 80, 0.5
    c.seeding.null_space, c.seeding.null_space_spare = 0.95, 0.2
    c.gate.anchors = 1.0  # every night is measured, none rolled back
    c.seeding.num_prompts = 0
    c.dreaming.steps = 0
    return c
