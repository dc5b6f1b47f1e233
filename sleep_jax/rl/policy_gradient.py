"""The clipped policy-gradient loss, by token or by sequence.

Pure functions over arrays. Sources: PPO (Schulman et al. 2017, arXiv 1707.06347, Eq. 7), GRPO
(Shao et al. 2024, arXiv 2402.03300, Eq. 3), Dr. GRPO (Liu et al. 2025, arXiv 2503.20783), DAPO (Yu
et al. 2025, arXiv 2503.14476, Eq. 8), GSPO (Zheng et al. 2025, arXiv 2507.18071, Eq. 5). Which
choices make which algorithm: `algorithms.py`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from sleep_jax.rl.aggregation import aggregate
from sleep_jax.rl.importance import log_ratio
from sleep_jax.rl.kl import kl_estimate


def drop_truncated(mask: jax.Array, finished: jax.Array) -> jax.Array:
    """The mask without completions that were cut off, whose rewards are unreliable.

    Args:
      mask: [batch, time] bool or 0/1.
      finished: [batch] bool, the completion ended by itself.

    Returns:
      [batch, time] bool.
    """
    return mask.astype(bool) & finished[:, None]


def policy_gradient_loss(
    log_probs: jax.Array,
    old_log_probs: jax.Array | None,
    advantages: jax.Array,
    mask: jax.Array,
    *,
    clip: float = 0.2,
    clip_high: float | None = None,
    level: str = "token",
    aggregation: str = "token",
    length: int | None = None,
    weights: jax.Array | None = None,
    sequences: jax.Array | None = None,
    entropy: jax.Array | None = None,
) -> tuple[tuple[jax.Array, jax.Array], dict[str, jax.Array]]:
    """The clipped surrogate over tokens, to be minimised.

        rho_t = exp(log_probs_t - old_log_probs_t), or of the sequence: `log_ratio`
        x_t   = - w_t min(rho_t A_t, clip(rho_t, 1 - clip, 1 + clip_high) A_t)
        (sum, denominator) = aggregate(x)

    With one update per rollout rho is 1 and the gradient is REINFORCE's, - w A grad log_probs. No
    gradient flows through `old_log_probs`, `advantages` and `weights`.

    Args:
      log_probs: [batch, time] of the sampled tokens under the policy that learns.
      old_log_probs: [batch, time] under the policy that ratios start from, which is needed where
        a rollout serves several updates. None: `log_probs`, detached.
      advantages: [batch], one a sequence, or [batch, time].
      mask: [batch, time] bool or 0/1, the tokens that the policy wrote. Entries outside it, NaN
        included, affect neither loss nor gradient.
      clip: how far rho may fall below 1; infinite for none.
      clip_high: how far it may rise above 1; None means `clip`.
      level: of rho: "token", "sequence" or "product". With the latter two the tokens of a sequence
        share one ratio, so they should share one advantage.
      aggregation, length: as in `aggregate`.
      weights: [batch, time] of `truncated_weights`; None: 1.
      sequences: of packed rows, as in `sequence_sum`.
      entropy: [batch, time] of the learner's next-token distribution; only logged.

    Returns:
      (sum, denominator): float32 scalars, to be added up over microbatches and hosts and divided
        once.
      metrics: float32 scalars over the masked tokens: `ratio` (mean) and `ratio_max`,
        `clip_fraction` (share of tokens whose gradient the clip set to 0), `kl` = mean(exp(d) - 1 -
        d) >= 0 with d the log ratio of a token, an estimate of KL(old || learner), and `entropy`
        (mean) if given.

    Raises:
      ValueError: an unknown option, or "constant" without a length.
    """
    clip_high = clip if clip_high is None else clip_high
    mask = mask.astype(bool)
    old = lax.stop_gradient(log_probs if old_log_probs is None else old_log_probs)
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    advantages = lax.stop_gradient(jnp.where(mask, advantages, 0.0)).astype(jnp.float32)
    ratio = jnp.exp(log_ratio(log_probs, old, mask, level=level, sequences=sequences))
    clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip_high)
    gain = jnp.minimum(ratio * advantages, clipped * advantages)
    if weights is not None:
        gain = gain * lax.stop_gradient(jnp.where(mask, weights, 0.0)).astype(jnp.float32)
    loss = aggregate(-gain, mask, aggregation=aggregation, length=length, sequences=sequences)

    count = jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1.0)
    is_clipped = jnp.where(advantages > 0, ratio > 1.0 + clip_high, ratio < 1.0 - clip)
    is_clipped = is_clipped & (advantages != 0)

    def mean(x):
        return jnp.sum(jnp.where(mask, x, 0.0)) / count

    metrics = {
        "ratio": mean(ratio),
        "ratio_max": jnp.max(jnp.where(mask, ratio, 0.0)),
        "clip_fraction": mean(is_clipped),
        "kl": mean(kl_estimate(old, log_probs, mask)),
    }
    if entropy is not None:
        metrics["entropy"] = mean(entropy.astype(jnp.float32))
    return loss, lax.stop_gradient(metrics)
