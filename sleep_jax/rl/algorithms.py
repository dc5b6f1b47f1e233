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

Choices are those of the papers and, where these leave one open, of TRL's trainers. RLOO's clipped
ratio of whole sequences is TRL's: in the first update it is 1, and the gradient is the paper's.
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
      name: of the algorithm that the choices were taken from.
      baseline, scale: of the advantages, as in `group_advantages`.
      clip, clip_high: largest distance of a ratio from 1 downwards and upwards; clip_high None: as
        clip.
      level: of the ratio, as in `log_ratio`.
      aggregation, length: of the tokens, as in `aggregate`.
      skip_tied: mask out groups whose rewards are all equal.
      kl_estimator: of KL(policy || reference), a `kind` of `kl_estimate`; k2 and k3 are added to
        the loss, k1 is subtracted from the reward.
      importance_cap: largest weight of `truncated_weights`, which are by sequence if `level` is
        "sequence" and else by token: a product over a long completion would be near 0. None: none.
      gae: lambda of generalised advantage estimation, which makes token advantages of completions'
        rewards with a value head (PPO); None: rewards are compared within groups.

    Raises:
      ValueError: a field is out of range, or fields contradict each other.
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
        "k3", "estimator of the KL to the student before the night", choices=KINDS
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

    def learning_mask(self, mask: jax.Array, tied: jax.Array, finished: jax.Array) -> jax.Array:
        """Of the tokens that the policy wrote, those that are learnt from.

        Args:
          mask: [groups * size, time], the tokens that the policy wrote.
          tied: [groups] bool, of `advantages`.
          finished: [groups * size] bool, the completion ended by itself.

        Returns:
          bool [groups * size, time].
        """
        mask = drop_tied(mask, tied) if self.skip_tied else mask.astype(bool)
        return drop_truncated(mask, finished) if self.mask_truncated_completions else mask

    @property
    def needs_reference(self) -> bool:
        """Whether there is a KL penalty, for which rollouts are scored under the reference."""
        return self.kl_coef > 0

    def penalised_reward(self, rewards, log_probs, reference_log_probs, mask):
        """r_i - kl_coef * sum_t k1_t: float32 [batch]; with k2 or k3, and with `gae`, which rewards
        single tokens, the rewards unchanged.

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
        extra = {}
        if self.importance_cap is not None:
            weights, importance = truncated_weights(
                old_log_probs,
                sampler_log_probs,
                mask,
                cap=self.importance_cap,
                level="sequence" if self.level == "sequence" else "token",
                sequences=sequences,
            )
            extra = {f"importance_{name}": value for name, value in importance.items()}
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

        def aggregated_sum(values):
            options = {"aggregation": self.aggregation, "length": self.length}
            return aggregate(values, mask, sequences=sequences, **options)[0]

        if self.needs_reference:
            estimate = kl_estimate(log_probs, reference_log_probs, mask, self.kl_estimator)
            count = jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1.0)
            extra["penalty"] = jax.lax.stop_gradient(jnp.sum(estimate) / count)
            if self.kl_estimator != "k1":
                total = total + self.kl_coef * aggregated_sum(estimate)
        if self.entropy_coef:
            total = total - self.entropy_coef * aggregated_sum(entropy)
        return (total, denominator), metrics | extra


def surrogate(name: str = Surrogate.name, **changes) -> Surrogate:
    """An algorithm of `ALGORITHMS` by name, with some of its choices changed.

    Dr. GRPO needs one: `surrogate("dr_grpo", length=256)`.

    Raises:
      ValueError: an unknown name or choice, or a value that `Surrogate` rejects.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"seeding.estimator={name!r}; choose from {', '.join(ALGORITHMS)}")
    known = [field.name for field in dataclasses.fields(Surrogate)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise ValueError(f"{name} has no choice {unknown[0]!r}; choose from {', '.join(known)}")
    return Surrogate(**{**ALGORITHMS[name], "name": name, **changes})
