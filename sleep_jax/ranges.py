"""What the numbers of a config may be."""

import math

from flax.traverse_util import flatten_dict

from sleep_jax.data.chunking import SMALLEST

# Of those for which nothing that is built of them says so in the words of the field.
NOT_NEGATIVE = (
    "seed",
    "checkpoint.keep",
    "checkpoint.updates",
    "data.limit",
    "memory.scale",
    "wake.clip",
    "study.temperature",
    "seeding.learning_rate",
    "seeding.warmup",
    "seeding.dreams",
    "seeding.penalty_weight",
    "seeding.entropy_weight",
    "seeding.rollout_temperature",
    "dreaming.temperature",
    "dreaming.learning_rate",
    "dreaming.cross_entropy",
    "dreaming.interaction",
    "dreaming.trial.alpha",
    "dreaming.trial.learning_rate",
    "dreaming.trial.clip",
    "evaluation.samples",
)
AT_LEAST_1 = (
    "model.thought_tokens",
    "data.episodes",
    "wake.context",
    "seeding.rows",
    "seeding.time",
    "seeding.scored",
    "seeding.accumulate",
    "seeding.max_new_tokens",
    "dreaming.max_new_tokens",
    "evaluation.max_new_tokens",
)
RANGES = {
    **dict.fromkeys(NOT_NEGATIVE, (0, math.inf)),
    **dict.fromkeys(AT_LEAST_1, (1, math.inf)),
    "data.chunk_tokens": (SMALLEST, math.inf),
    "seeding.rollout_top_p": (1e-6, 1),
    "dreaming.top_p": (1e-6, 1),
    "dreaming.alpha": (0, 1),
}


def check_ranges(c) -> None:
    """Holds every number against `RANGES`.

    Raises:
      ValueError: one lies outside or is infinite there, or is NaN anywhere.
    """
    for field, value in flatten_dict(c.to_dict(), sep=".").items():
        for entry in value if isinstance(value, tuple) else (value,):
            if isinstance(entry, float) and math.isnan(entry):
                raise ValueError(f"{field}={entry}; give a number")
        least, most = RANGES.get(field, (-math.inf, math.inf))
        if field in RANGES and not (least <= value <= most and value < math.inf):
            bounds = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            raise ValueError(f"{field}={value}; give a finite number, {bounds}")
