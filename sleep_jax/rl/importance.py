"""Importance ratios of sampled tokens: by token or sequence, and truncated against the sampler.

Sequence ratios: GSPO (Zheng et al. 2025, arXiv 2507.18071, Eq. 7). Truncated importance weights:
Ionides (2008); against a sampler that is not quite the learner, Yao et al. (2025), "Your efficient
RL framework secretly brings you off-policy RL training".
"""

import jax
import jax.numpy as jnp
from jax import lax

from sleep_jax.rl.aggregation import sequence_sum
from sleep_jax.rl.kl import kl_estimate

LEVELS = ("token", "sequence", "product")
# exp(20) is a finite number of either sign of advantage; inf * 0 in the backward pass would be NaN.
LARGEST_LOG_RATIO = 20.0


def log_ratio(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    mask: jax.Array,
    *,
    level: str = "token",
    sequences: jax.Array | None = None,
) -> jax.Array:
    """log rho of every token, float32 [batch, time]; 0 outside the mask, within +-20.

        d_t = log_probs_t - old_log_probs_t
        token:     d_t                  PPO, GRPO
        sequence:  sum_t d_t / |y|      GSPO: geometric mean of the ratios of its |y| tokens
        product:   sum_t d_t            RLOO: the ratio of the sequence's probabilities

    Args:
      log_probs, old_log_probs: [batch, time]; gradients flow through both.
      mask: bool [batch, time]; entries outside it, NaN included, are not read.
      level: "token", "sequence" or "product".
      sequences: of packed rows, as in `sequence_sum`.

    Raises:
      ValueError: an unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"level={level!r}; choose from {', '.join(LEVELS)}")
    # Masked before anything else: 0 * NaN in the backward pass would be NaN.
    delta = log_probs.astype(jnp.float32) - old_log_probs.astype(jnp.float32)
    delta = jnp.where(mask, delta, 0.0)
    if level != "token":
        total = sequence_sum(delta, sequences)
        if level == "sequence":
            total = total / jnp.maximum(sequence_sum(mask.astype(jnp.float32), sequences), 1.0)
        delta = jnp.where(mask, total, 0.0)
    return jnp.clip(delta, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)


def truncated_weights(
    old_log_probs: jax.Array,
    sampler_log_probs: jax.Array,
    mask: jax.Array,
    *,
    cap: float = 2.0,
    level: str = "token",
    sequences: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Truncated importance weights of tokens whose sampler was not quite the policy that the ratio
    starts from: other numerics, a truncated distribution, older weights.

        w = min(pi_old / pi_sampler, cap)

    Args:
      old_log_probs: [batch, time], by the scorer at sampling time.
      sampler_log_probs: [batch, time], by the sampler.
      mask: [batch, time] bool or 0/1, the tokens that the policy wrote.
      cap: largest weight; 2 in verl, 3 in TRL.
      level: of the ratio, as in `log_ratio`; TRL and verl call "product" the sequence level.
      sequences: of packed rows, as in `sequence_sum`.

    Returns:
      weights: float32 [batch, time], 0 outside the mask; no gradient flows through them.
      metrics: float32 scalars over the masked tokens: `weight` (mean), `truncated` (share whose
        ratio exceeds the cap), `gap` (mean |log pi_old - log pi_sampler|) and `kl` (k3 estimate of
        KL(sampler || old)).
    """
    mask = mask.astype(bool)
    old, sampler = lax.stop_gradient((old_log_probs, sampler_log_probs))
    ratio = jnp.exp(log_ratio(old, sampler, mask, level=level, sequences=sequences))
    weights = jnp.where(mask, jnp.minimum(ratio, cap), 0.0)
    count = jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1.0)
    metrics = {
        "weight": jnp.sum(weights) / count,
        "truncated": jnp.sum(mask & (ratio > cap)) / count,
        "gap": jnp.sum(jnp.abs(log_ratio(old, sampler, mask))) / count,
        "kl": jnp.sum(kl_estimate(sampler, old, mask)) / count,
    }
    return weights, metrics
