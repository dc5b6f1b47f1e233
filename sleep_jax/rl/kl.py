"""k1, k2, k3: estimates of KL(policy || reference) from the policy's own tokens.

Schulman (2020), "Approximating KL divergence"; what their gradients mean: Tang and Munos (2025,
arXiv 2506.09477). With d = log policy - log reference of a token that the policy sampled:

         value                expectation               gradient as a loss, in expectation
    k1   d                    KL(policy || reference)   0: useful in the reward, not in the loss
    k2   d^2 / 2              close where both agree    that of KL(policy || reference)
    k3   exp(-d) - 1 + d      KL(policy || reference)   that of KL(reference || policy)

k1 has either sign; k2 and k3 are never below 0. GRPO adds k3 to its loss; RLOO and PPO subtract
beta * k1 from the reward, without a gradient. All are per token: as a loss they ignore how an early
token changes the divergence at later ones, which the reward form accounts for.
"""

import jax
import jax.numpy as jnp
from jax import lax

# exp(20) is finite; verl has the same bound.
LARGEST_GAP = 20.0


def _k3(gap):
    gap = jnp.clip(gap, -LARGEST_GAP, LARGEST_GAP)
    return jnp.expm1(-gap) + gap


ESTIMATES = {"k1": lambda gap: gap, "k2": lambda gap: gap**2 / 2, "k3": _k3}
KINDS = tuple(ESTIMATES)


def kl_estimate(
    log_probs: jax.Array, reference_log_probs: jax.Array, mask: jax.Array, kind: str = "k3"
) -> jax.Array:
    """The estimate at every token, float32 [batch, time]; 0 outside the mask.

    As a penalty in the loss, `aggregate` it like the surrogate, add beta * sum to the surrogate's
    sum, and keep its denominator. As a penalty in the reward, stop its gradient.

    Args:
      log_probs: [batch, time] of the sampled tokens under the policy that sampled them.
      reference_log_probs: [batch, time]; receives no gradient.
      mask: [batch, time] bool or 0/1; entries outside it, NaN included, are not read.
      kind: "k1", "k2" or "k3".

    Raises:
      ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}; choose from {', '.join(KINDS)}")
    reference = lax.stop_gradient(reference_log_probs).astype(jnp.float32)
    gap = jnp.where(mask.astype(bool), log_probs.astype(jnp.float32) - reference, 0.0)
    return ESTIMATES[kind](gap)
