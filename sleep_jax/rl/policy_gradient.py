"""Group advantages and the clipped policy-gradient loss: REINFORCE, GRPO, Dr. GRPO, RLOO.

Pure functions over arrays. Sources: PPO (Schulman et al. 2017, arXiv 1707.06347, Eq. 7), GRPO
(Shao et al. 2024, arXiv 2402.03300), Dr. GRPO (Liu et al. 2025, arXiv 2503.20783), RLOO (Ahmadian
et al. 2024, arXiv 2402.14740), asymmetric clipping from DAPO (Yu et al. 2025, arXiv 2503.14476).
"""

import jax
import jax.numpy as jnp
from jax import lax


def group_advantages(
    rewards: jax.Array, *, scale: str = "none", baseline: str = "mean"
) -> tuple[jax.Array, jax.Array]:
    """Rewards of several rollouts of one prompt, compared with each other.

        mean:  A_i = r_i - mean(r)                       Dr. GRPO, the default
        loo:   A_i = r_i - mean(r without r_i)           RLOO
        none:  A_i = r_i                                 REINFORCE
        std:   the above, divided by std(r) + 1e-4       GRPO; std with n - 1, as in TRL

    Args:
      rewards: [groups, size], one row a prompt.
      scale: "none" or "std".
      baseline: "mean", "loo" or "none".

    Returns:
      advantages: [groups, size] float32. With a baseline, a tied group gives exactly 0.
      tied: [groups] bool, all rewards of the group are equal: it teaches nothing under a
        baseline, so the caller can count it and leave it out of the denominator.

    Raises:
      ValueError: for an unknown option, for "std" without a baseline (a constant reward would be
        divided by almost zero), or a group of one where others are needed.
    """
    if scale not in ("none", "std"):
        raise ValueError(f"scale={scale!r}; choose 'none' or 'std'")
    if baseline not in ("mean", "loo", "none"):
        raise ValueError(f"baseline={baseline!r}; choose 'mean', 'loo' or 'none'")
    if scale == "std" and baseline == "none":
        raise ValueError("scale='std' needs a baseline; set baseline='mean' or 'loo'")
    size = rewards.shape[1]
    if size < 2 and (scale == "std" or baseline == "loo"):
        raise ValueError(
            f"rewards have group size {size}; scale={scale!r}, baseline={baseline!r} compare "
            "rollouts of one prompt: sample at least 2"
        )
    rewards = rewards.astype(jnp.float32)
    tied = jnp.all(rewards == rewards[:, :1], axis=1)
    if baseline == "none":
        return rewards, tied
    advantages = rewards - jnp.mean(rewards, axis=1, keepdims=True)
    if baseline == "loo":
        advantages = advantages * (size / (size - 1))  # r_i - (sum r - r_i) / (n - 1)
    if scale == "std":
        advantages = advantages / (jnp.std(rewards, axis=1, ddof=1, keepdims=True) + 1e-4)
    # A rounded mean leaves a residue in a tied group: remove it, do not train on it.
    return jnp.where(tied[:, None], 0.0, advantages), tied


def policy_gradient_loss(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    *,
    clip: float = 0.2,
    clip_high: float | None = None,
) -> tuple[tuple[jax.Array, jax.Array], dict[str, jax.Array]]:
    """The clipped surrogate over tokens, to be minimised.

        rho_{b,t} = exp(log_probs_{b,t} - old_log_probs_{b,t})
        sum   = - sum_{b,t} mask_{b,t} min(rho A_b, clip(rho, 1 - clip, 1 + clip_high) A_b)
        denominator = sum_{b,t} mask_{b,t}

    With one update per rollout pass `old_log_probs = stop_gradient(log_probs)`: rho is 1 and the
    gradient is REINFORCE's, - sum mask A grad log_probs. No gradient flows through
    `old_log_probs` and `advantages`.

    Args:
      log_probs: [batch, time] of the sampled tokens under the policy that learns.
      old_log_probs: [batch, time] under the policy that the ratio compares with.
      advantages: [batch], one a sequence.
      mask: [batch, time] bool or 0/1, the tokens that the policy wrote. What stands elsewhere,
        NaN included, touches neither loss nor gradient.
      clip: how far rho may fall below 1.
      clip_high: how far it may rise above 1; None means `clip`.

    Returns:
      (sum, denominator): float32 scalars, to be added up over microbatches and hosts and divided
        once.
      metrics: float32 scalars, means over the masked tokens: `ratio`, `clip_fraction` (tokens whose
        gradient the clip cut off) and `kl` = mean(rho - 1 - log rho) >= 0, an estimate of
        KL(old || learner).
    """
    clip_high = clip if clip_high is None else clip_high
    mask = mask.astype(bool)
    # Masked before exp and before the product: 0 * NaN in the backward pass would be NaN.
    delta = jnp.where(mask, log_probs - lax.stop_gradient(old_log_probs), 0.0).astype(jnp.float32)
    advantages = lax.stop_gradient(jnp.where(mask, advantages[:, None], 0.0)).astype(jnp.float32)
    ratio = jnp.exp(delta)
    clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip_high)
    gain = jnp.minimum(ratio * advantages, clipped * advantages)

    denominator = jnp.sum(mask, dtype=jnp.float32)
    cut = jnp.where(advantages > 0, ratio > 1.0 + clip_high, ratio < 1.0 - clip)
    cut = cut & (advantages != 0)

    def mean(x):
        return lax.stop_gradient(jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(denominator, 1.0))

    metrics = {
        "ratio": mean(ratio),
        "clip_fraction": mean(cut),
        "kl": mean(ratio - 1.0 - delta),
    }
    return (-jnp.sum(gain), denominator), metrics
