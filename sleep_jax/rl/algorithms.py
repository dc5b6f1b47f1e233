"""REINFORCE, RLOO, GRPO, Dr. GRPO, DAPO and GSPO as choices of one surrogate.

               baseline  scale  clip          ratio      mean over
    group      group     -      0.2           token      tokens: the default of seeding
    reinforce  batch     -      none          product    sequences
    rloo       loo       -      0.2           product    sequences
    grpo       group     std    0.2           token      tokens, then sequences
    dr_grpo    group     -      0.2           token      sequences, a constant length each
    dapo       group     std    0.2, 0.28     token      tokens; tied groups dropped
    gspo       group     std    3e-4, 4e-4    sequence   tokens, then sequences

What the papers say, and where they leave a choice open what TRL's trainers do. RLOO's clipped ratio
of whole sequences is TRL's: on the first update it is 1, and the gradient that of the paper.
"""

import dataclasses
import math

import jax

from sleep_jax.rl.advantages import check_options, drop_tied, group_advantages
from sleep_jax.rl.aggregation import AGGREGATIONS
from sleep_jax.rl.importance import LEVELS
from sleep_jax.rl.policy_gradient import drop_truncated, policy_gradient_loss

ALGORITHMS = {
    "group": {},
    "reinforce": {
        "baseline": "batch",
        "clip": math.inf,
        "level": "product",
        "aggregation": "sequence",
    },
    "rloo": {"baseline": "loo", "level": "product", "aggregation": "sequence"},
    "grpo": {"scale": "std", "aggregation": "sequence"},
    "dr_grpo": {"aggregation": "constant"},
    "dapo": {"scale": "std", "clip_high": 0.28, "skip_tied": True},
    "gspo": {
        "scale": "std",
        "clip": 3e-4,
        "clip_high": 4e-4,
        "level": "sequence",
        "aggregation": "sequence",
    },
}


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """The choices of a policy-gradient algorithm; hashable, so static under `jax.jit`.

    Attributes:
      baseline, scale: of the advantages, as in `group_advantages`.
      clip, clip_high: how far a ratio may leave 1 downwards and upwards; None: `clip` both ways.
      level: of the ratio, as in `log_ratio`.
      aggregation, length: of the tokens, as in `aggregate`.
      skip_tied: groups whose rewards all agree leave the mask.
      skip_truncated: completions that were cut off leave the mask.
    """

    baseline: str = "mean"
    scale: str = "none"
    clip: float = 0.2
    clip_high: float | None = None
    level: str = "token"
    aggregation: str = "token"
    length: int | None = None
    skip_tied: bool = False
    skip_truncated: bool = False

    def __post_init__(self):
        check_options(self.baseline, self.scale)
        for name, choices in (("level", LEVELS), ("aggregation", AGGREGATIONS)):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name}={value!r}; choose from {', '.join(choices)}")
        for name in ("clip", "clip_high"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value}; give a distance from 1 above 0")
        if self.aggregation == "constant" and (self.length is None or self.length <= 0):
            raise ValueError(
                f"length={self.length}; aggregation='constant' divides by it: give the longest "
                "completion"
            )
        if self.skip_tied and self.baseline not in ("mean", "loo"):
            raise ValueError(
                f"skip_tied=True with baseline={self.baseline!r}, under which a tied group still "
                "teaches; choose baseline from mean, loo"
            )

    def advantages(self, rewards: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(advantages [groups, size], tied [groups]) of rewards [groups, size]."""
        return group_advantages(rewards, scale=self.scale, baseline=self.baseline)

    def mask(self, mask: jax.Array, tied: jax.Array, finished: jax.Array) -> jax.Array:
        """The tokens that learn, bool [groups * size, time], of those that the policy wrote.

        Args:
          mask: [groups * size, time].
          tied: [groups].
          finished: [groups * size] bool, the completion ended by itself.
        """
        mask = drop_tied(mask, tied) if self.skip_tied else mask.astype(bool)
        return drop_truncated(mask, finished) if self.skip_truncated else mask

    def loss(self, log_probs, old_log_probs, advantages, mask, **given):
        """`policy_gradient_loss` with these choices; `given`: its weights, sequences, entropy."""
        return policy_gradient_loss(
            log_probs,
            old_log_probs,
            advantages,
            mask,
            clip=self.clip,
            clip_high=self.clip_high,
            level=self.level,
            aggregation=self.aggregation,
            length=self.length,
            **given,
        )


def surrogate(name: str, **changes) -> Surrogate:
    """An algorithm of `ALGORITHMS` by name, with some of its choices changed.

    `surrogate("dr_grpo", length=256)`: only Dr. GRPO has a choice without a default.

    Raises:
      ValueError: for an unknown name or choice.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"estimator={name!r}; choose from {', '.join(ALGORITHMS)}")
    known = [field.name for field in dataclasses.fields(Surrogate)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise ValueError(f"{name} has no choice {unknown[0]!r}; choose from {', '.join(known)}")
    return Surrogate(**{**ALGORITHMS[name], **changes})
