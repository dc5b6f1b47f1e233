"""PPO's value head: its loss, rewards of tokens, generalised advantage estimation.

GAE: Schulman et al. 2016 (arXiv 1506.02438, Eq. 16). Clipped values and whitening as in Huang et
al. 2024 (arXiv 2403.17031) and TRL. The policy's loss is `policy_gradient_loss` with advantages
[batch, time]. A row is one completion.
"""

import jax
import jax.numpy as jnp
from jax import lax

from sleep_jax.rl.aggregation import aggregate


def init_value_head(width: int) -> dict[str, jax.Array]:
    """An initial linear value head over hidden states [..., width], float32: zero, so that it adds
    no noise to the advantages before it learns. Huang et al. draw it from N(0, 1 / (width + 1))."""
    return {"kernel": jnp.zeros((width,)), "bias": jnp.zeros(())}


def apply_value_head(head: dict[str, jax.Array], hidden: jax.Array) -> jax.Array:
    """Values V(s_t), float32 [batch, time], of the hidden states [batch, time, width] that predict
    the sampled tokens."""
    hidden = hidden.astype(jnp.float32)
    return jnp.einsum("btd,d->bt", hidden, head["kernel"]) + head["bias"]


def token_rewards(
    scores: jax.Array, kl: jax.Array, mask: jax.Array, *, beta: float = 0.05
) -> jax.Array:
    """r_t = - beta kl_t, plus the score at the last masked token: float32 [batch, time].

    Args:
      scores: [batch], one a completion.
      kl: [batch, time], k1 of `kl_estimate` against the reference.
      mask: [batch, time] bool or 0/1.
      beta: weight of the KL; 0.05 in TRL.
    """
    mask = mask.astype(bool)
    last = mask & (jnp.cumsum(mask[:, ::-1], axis=1)[:, ::-1] == 1)
    rewards = jnp.where(last, scores[:, None], 0.0) - beta * jnp.where(mask, kl, 0.0)
    return lax.stop_gradient(rewards.astype(jnp.float32))


def gae(
    rewards: jax.Array,
    values: jax.Array,
    mask: jax.Array,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    bootstrap: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Generalised advantage estimates by one reverse scan over time.

        delta_t = r_t + gamma V_{t+1} - V_t
        A_t = delta_t + gamma lam A_{t+1},   R_t = A_t + V_t

    t + 1 is the next masked-in token: tokens in between that the policy did not write are skipped.

    Args:
      rewards, values: [batch, time]; not read outside the mask.
      mask: [batch, time] bool or 0/1, the tokens that the policy wrote.
      gamma: discount.
      lam: 0 is the one-step estimate, 1 the discounted return less V_t.
      bootstrap: [batch], V after the last token of completions that were cut off, 0 for those that
        ended; None: 0.

    Returns:
      (advantages, returns): float32 [batch, time], 0 outside the mask; no gradient flows.
    """
    mask = mask.astype(bool)

    def prepare(x):
        return lax.stop_gradient(jnp.where(mask, x, 0.0)).astype(jnp.float32).T

    def step(carry, token):
        reward, value, is_masked_in = token
        next_value, next_advantage = carry
        advantage = reward + gamma * next_value - value + gamma * lam * next_advantage
        carry = (
            jnp.where(is_masked_in, value, next_value),
            jnp.where(is_masked_in, advantage, next_advantage),
        )
        return carry, jnp.where(is_masked_in, advantage, 0.0)

    zero = jnp.zeros(mask.shape[0])
    last = zero if bootstrap is None else lax.stop_gradient(bootstrap).astype(jnp.float32)
    inputs = (prepare(rewards), values := prepare(values), mask.T)
    _, advantages = lax.scan(step, (last, zero), inputs, reverse=True)
    return advantages.T, (advantages + values).T


def whiten(advantages: jax.Array, mask: jax.Array) -> jax.Array:
    """Advantages with mean 0 and variance 1 (n - 1) over the masked tokens, 0 elsewhere: [batch,
    time] float32."""
    mask = mask.astype(bool)
    count = jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1.0)
    centred = jnp.where(mask, advantages, 0.0).astype(jnp.float32)
    centred = jnp.where(mask, centred - jnp.sum(centred) / count, 0.0)
    variance = jnp.sum(centred**2) / jnp.maximum(count - 1.0, 1.0)
    return lax.stop_gradient(centred * lax.rsqrt(variance + 1e-8))


def value_loss(
    values: jax.Array,
    old_values: jax.Array,
    returns: jax.Array,
    mask: jax.Array,
    *,
    clip: float = 0.2,
) -> tuple[tuple[jax.Array, jax.Array], dict[str, jax.Array]]:
    """The clipped squared error of the value head, mean over tokens.

        x_t = 1/2 max((V_t - R_t)^2, (V_old,t + clip(V_t - V_old,t, -clip, clip) - R_t)^2)

    Args:
      values: [batch, time], of the head that learns.
      old_values: [batch, time], when the rollout was scored.
      returns: [batch, time], of `gae`.
      mask: [batch, time] bool or 0/1; entries outside it, NaN included, have no effect.
      clip: largest change of a value over the updates of a rollout; infinite for no limit.

    Returns:
      (sum, denominator): float32 scalars.
      metrics: float32 scalars over the masked tokens: `value` (mean), `value_clip_fraction` and
        `explained_variance` of the returns.
    """
    mask = mask.astype(bool)

    def masked(x):
        return jnp.where(mask, x, 0.0).astype(jnp.float32)

    values = masked(values)
    old_values, returns = lax.stop_gradient((masked(old_values), masked(returns)))
    clipped = old_values + jnp.clip(values - old_values, -clip, clip)
    error, clipped_error = (values - returns) ** 2, (clipped - returns) ** 2
    loss = aggregate(jnp.maximum(error, clipped_error) / 2, mask)

    count = jnp.maximum(loss[1], 1.0)

    def variance(x):
        return jnp.sum(jnp.where(mask, x - jnp.sum(x) / count, 0.0) ** 2) / count

    unexplained = variance(returns - values) / jnp.maximum(variance(returns), 1e-8)
    metrics = {
        "value": jnp.sum(values) / count,
        "value_clip_fraction": jnp.sum(clipped_error > error) / count,
        "explained_variance": 1.0 - unexplained,
    }
    return loss, lax.stop_gradient(metrics)
