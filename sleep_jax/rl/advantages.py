"""Advantages of rollouts from their rewards, without a value function.

REINFORCE (Williams 1992), GRPO (Shao et al. 2024, arXiv 2402.03300), Dr. GRPO (Liu et al. 2025,
arXiv 2503.20783), RLOO (Ahmadian et al. 2024, arXiv 2402.14740), dynamic sampling of DAPO (Yu et
al. 2025, arXiv 2503.14476, the constraint of Eq. 8).
"""

import jax
import jax.numpy as jnp

BASELINES = ("mean", "loo", "batch", "none")
SCALES = ("none", "std", "batch")
# Added to a standard deviation before dividing by it, as in TRL.
EPSILON = 1e-4


def check_options(baseline: str, scale: str) -> None:
    """Checks the options of `group_advantages`.

    Raises:
      ValueError: an unknown baseline or scale, or a pair that contradicts itself.
    """
    for name, value, choices in (("baseline", baseline, BASELINES), ("scale", scale, SCALES)):
        if value not in choices:
            raise ValueError(f"{name}={value!r}; choose from {', '.join(choices)}")
    if scale != "none" and baseline == "none":
        # A constant reward would be divided by almost zero.
        raise ValueError(f"scale={scale!r} needs a baseline; choose from mean, loo, batch")
    if scale == "std" and baseline == "batch":
        raise ValueError(
            "scale='std' is the spread within a group, baseline='batch' compares across groups; "
            "set scale='batch' or baseline='mean'"
        )


def group_advantages(
    rewards: jax.Array, *, scale: str = "none", baseline: str = "mean"
) -> tuple[jax.Array, jax.Array]:
    """Advantages of rollouts, each compared with the others of its prompt or batch.

        mean:   A_i = r_i - mean(r)                       Dr. GRPO, the default
        loo:    A_i = r_i - mean(r without r_i)           RLOO
        batch:  A_i = r_i - mean(rewards of all groups)   REINFORCE with a baseline
        none:   A_i = r_i                                 REINFORCE
        scale:  divides the above by std + 1e-4, with n - 1 as in TRL; "std" is that of the group's
                rewards (GRPO), "batch" that of all rewards

    Args:
      rewards: [groups, size], one row a prompt.
      scale: "none", "std" or "batch".
      baseline: "mean", "loo", "batch" or "none".

    Returns:
      advantages: [groups, size] float32. Exactly 0 in a tied group under "mean" and "loo", and in a
        batch of equal rewards under "batch".
      tied: [groups] bool, all rewards of the group are equal: under "mean" and "loo" it has no
        gradient, so the caller can leave it out of the denominator (`drop_tied`).

    Raises:
      ValueError: options that `check_options` rejects, or a single rollout where it is compared
        with others.
    """
    check_options(baseline, scale)
    size = rewards.shape[1]
    if size < 2 and (scale == "std" or baseline == "loo"):
        raise ValueError(
            f"rewards have group size {size}; scale={scale!r}, baseline={baseline!r} compare "
            "rollouts of one prompt: sample at least 2"
        )
    if rewards.size < 2 and "batch" in (scale, baseline):
        raise ValueError(
            f"rewards have {rewards.size} entries; scale={scale!r}, baseline={baseline!r} compare "
            "rollouts of a batch: give at least 2"
        )
    rewards = rewards.astype(jnp.float32)
    tied = jnp.all(rewards == rewards[:, :1], axis=1)
    if baseline == "none":
        return rewards, tied
    if baseline == "batch":
        advantages = rewards - jnp.mean(rewards)
        without_signal = jnp.all(rewards == rewards[0, 0])
    else:
        advantages = rewards - jnp.mean(rewards, axis=1, keepdims=True)
        without_signal = tied[:, None]
    if baseline == "loo":
        advantages = advantages * (size / (size - 1))  # r_i - (sum r - r_i) / (n - 1)
    if scale == "std":
        advantages = advantages / (jnp.std(rewards, axis=1, ddof=1, keepdims=True) + EPSILON)
    elif scale == "batch":
        advantages = advantages / (jnp.std(rewards, ddof=1) + EPSILON)
    # The rounded mean of a tied group leaves a residue, which must not be trained on.
    return jnp.where(without_signal, 0.0, advantages), tied


def drop_tied(mask: jax.Array, tied: jax.Array) -> jax.Array:
    """DAPO's dynamic sampling at a fixed shape: tied groups leave the mask, and with it the
    denominator. (DAPO itself samples until the batch is full.)

    Args:
      mask: [groups * size, time], the rollouts of a group next to each other.
      tied: [groups] bool, of `group_advantages`.

    Returns:
      [groups * size, time] bool.

    Raises:
      ValueError: the rows are not a multiple of the groups.
    """
    rows, groups = mask.shape[0], tied.shape[0]
    if rows % groups:
        raise ValueError(f"mask has {rows} rows, not a multiple of the {groups} groups of `tied`")
    return mask.astype(bool) & ~jnp.repeat(tied, rows // groups)[:, None]
