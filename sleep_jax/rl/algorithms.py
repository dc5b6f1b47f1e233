"""REINFORCE, RLOO, GRPO, Dr. GRPO, DAPO, GSPO and PPO as choices of one surrogate.

               baseline  scale  clip          ratio      mean over
    group      group     -      0.2           token      tokens: the default of seeding
    reinforce  batch     -      none          product    sequences
    rloo       loo       -      0.2           product    sequences
    grpo       group     std    0.2           token      tokens, then sequences
    dr_grpo    group     -      0.2           token      sequences, a constant length each
    dapo       group     std    0.2, 0.28     token      tokens; tied groups dropped
    gspo       group     std    3e-4, 4e-4    sequence   tokens, then sequences
    ppo        values    -      0.2           token      tokens

What the papers say, and where they leave a choice open what TRL's trainers do. RLOO's clipped ratio
of whole sequences is TRL's: on the first update it is 1, and the gradient that of the paper.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from sleep_jax.rl.advantages import check_options, drop_tied, group_advantages
from sleep_jax.rl.aggregation import AGGREGATIONS, aggregate
from sleep_jax.rl.importance import LEVELS, truncated_weights
from sleep_jax.rl.kl import KINDS, kl_estimate
from sleep_jax.rl.policy_gradient import drop_truncated, policy_gradient_loss
from sleep_jax.settings import Settings, borrowed, setting

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
    "ppo": {"baseline": "none", "gae": 0.95},
}


@dataclasses.dataclass(frozen=True)
class Surrogate(Settings, section="seeding"):
    """The choices of a policy-gradient algorithm; hashable, so static under `jax.jit`.

    Attributes:
      name: the algorithm that it is, or was before some of its choices were changed.
      baseline, scale: of the advantages, as in `group_advantages`.
      clip, clip_high: how far a ratio may leave 1 downwards and upwards; None: `clip` both ways.
      level: of the ratio, as in `log_ratio`.
      aggregation, length: of the tokens, as in `aggregate`.
      skip_tied: groups whose rewards all agree leave the mask.
      kl_estimator: of KL(policy || reference) as in `kl_estimate`; k2 and k3 join the loss, k1 is
        taken off the reward.
      importance_cap: largest weight of `truncated_weights`, by sequence where the ratio is; else by
        token, since a product leaves next to nothing of a long completion; None: no weights.
      gae: lambda of the generalised advantage estimates that spread a completion's reward over its
        tokens, by a value head that learns beside the policy (PPO); None: rewards are compared.
    """

    name: str = setting(
        "group", "how rewards become a policy gradient", choices=ALGORITHMS, name="estimator"
    )
    baseline: str = "mean"
    scale: str = "none"
    clip: float = 0.2
    clip_high: float | None = None
    level: str = "token"
    aggregation: str = "token"
    length: int | None = borrowed(None, "max_new_tokens")
    skip_tied: bool = False
    mask_truncated_completions: bool = setting(
        False, "leave rollouts that were cut off at max_new_tokens out of the policy gradient"
    )
    kl_estimator: str = setting(
        "k3", "estimate of the KL to the student before the night", choices=KINDS
    )
    kl_coef: float = setting(0.0, "weight of that KL; 0: none", least=0)
    importance_cap: float | None = setting(
        None, "largest weight against the sampler's log-probs, 2 is usual; 0: none",
        above=0, none=0,
    )  # fmt: skip
    entropy_coef: float = setting(
        0.0, "weight of the policy's entropy, which is maximised; 0: none", least=0
    )
    gae: float | None = None
    value_learning_rate: float = setting(1e-3, "Adam's rate of PPO's value head", above=0)

    def check(self) -> None:
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
        if self.gae is not None and not 0 <= self.gae <= 1:
            raise ValueError(f"gae={self.gae}; lambda of the advantage estimates lies in [0, 1]")
        if self.gae is not None and self.baseline != "none":
            raise ValueError(
                f"gae={self.gae} with baseline={self.baseline!r}; values are the baseline: set "
                "baseline='none'"
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
        return drop_truncated(mask, finished) if self.mask_truncated_completions else mask

    @property
    def needs_reference(self) -> bool:
        """There is a penalty, so rollouts are scored under the reference, too."""
        return self.kl_coef > 0

    def rewards(self, rewards, log_probs, reference_log_probs, mask):
        """r_i - kl_coef * sum_t k1_t: float32 [batch]; under k2 and k3, and where tokens are
        rewarded one by one (`gae`), the rewards as given.

        Args:
          rewards: [batch], one a completion.
          log_probs, reference_log_probs, mask: [batch, time], as for `kl_estimate`.
        """
        if self.kl_estimator != "k1" or not self.needs_reference or self.gae is not None:
            return rewards
        k1 = kl_estimate(log_probs, reference_log_probs, mask, "k1")
        return rewards - self.kl_coef * jnp.sum(k1, axis=1)

    def loss(
        self,
        log_probs,
        old_log_probs,
        advantages,
        mask,
        *,
        weights=None,
        sampler_log_probs=None,
        reference_log_probs=None,
        entropy=None,
        sequences=None,
    ):
        """`policy_gradient_loss` with these choices.

        Args:
          log_probs, old_log_probs, advantages, mask, weights, sequences: as there.
          sampler_log_probs: [batch, time], for `importance_cap`, which makes weights of them.
          reference_log_probs: [batch, time], for the penalty.
          entropy: [batch, time], for `entropy_coef`; without it, only logged.

        Returns:
          ((sum, denominator), metrics) as there. The sum holds kl_coef * k2 or k3, and
          - entropy_coef * entropy, aggregated as the surrogate is; the metrics, over the masked
          tokens, the mean `penalty` and those of `truncated_weights`, as `importance_...`.
        """
        more = {}
        if self.importance_cap is not None:
            weights, importance = truncated_weights(
                old_log_probs,
                sampler_log_probs,
                mask,
                cap=self.importance_cap,
                level="sequence" if self.level == "sequence" else "token",
                sequences=sequences,
            )
            more = {f"importance_{name}": value for name, value in importance.items()}
        (total, denominator), metrics = policy_gradient_loss(
            log_probs,
            old_log_probs,
            advantages,
            mask,
            clip=self.clip,
            clip_high=self.clip_high,
            level=self.level,
            aggregation=self.aggregation,
            length=self.length,
            weights=weights,
            sequences=sequences,
            entropy=entropy,
        )

        def summed(values):
            choices = {"aggregation": self.aggregation, "length": self.length}
            return aggregate(values, mask, sequences=sequences, **choices)[0]

        if self.needs_reference:
            estimate = kl_estimate(log_probs, reference_log_probs, mask, self.kl_estimator)
            count = jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1.0)
            more["penalty"] = jax.lax.stop_gradient(jnp.sum(estimate) / count)
            if self.kl_estimator != "k1":
                total = total + self.kl_coef * summed(estimate)
        if self.entropy_coef:
            total = total - self.entropy_coef * summed(entropy)
        return (total, denominator), metrics | more


def surrogate(name: str = Surrogate.name, **changes) -> Surrogate:
    """An algorithm of `ALGORITHMS` by name, with some of its choices changed.

    `surrogate("dr_grpo", length=256)`: only Dr. GRPO has a choice without a default.

    Raises:
      ValueError: for an unknown name or choice.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"seeding.estimator={name!r}; choose from {', '.join(ALGORITHMS)}")
    known = [field.name for field in dataclasses.fields(Surrogate)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise ValueError(f"{name} has no choice {unknown[0]!r}; choose from {', '.join(known)}")
    return Surrogate(**{**ALGORITHMS[name], "name": name, **changes})
