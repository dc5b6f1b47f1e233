"""Means of per-token values over sequences and over the batch, for rows of one sequence or packed.

GRPO (Shao et al. 2024, arXiv 2402.03300), Dr. GRPO (Liu et al. 2025, arXiv 2503.20783) and DAPO (Yu
et al. 2025, arXiv 2503.14476).
"""

import jax
import jax.numpy as jnp

AGGREGATIONS = ("token", "sequence", "constant")


def sequence_sum(values: jax.Array, sequences: jax.Array | None = None) -> jax.Array:
    """At every token the sum over its sequence: [batch, time].

    Args:
      values: [batch, time], 0 where a token does not count.
      sequences: int32 [batch, time] in [0, batch * time), the id of each token's sequence, for
        packed rows; None: every row is one sequence.
    """
    if sequences is None:
        return jnp.broadcast_to(jnp.sum(values, axis=1, keepdims=True), values.shape)
    flat = sequences.reshape(-1)
    sums = jax.ops.segment_sum(values.reshape(-1), flat, num_segments=flat.size)
    return sums[flat].reshape(values.shape)


def aggregate(
    values: jax.Array,
    mask: jax.Array,
    *,
    aggregation: str = "token",
    length: int | None = None,
    sequences: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Sums per-token values so that sum / denominator is the mean of an algorithm.

        token:     sum_{i,t} x_{i,t}              over tokens              DAPO, PPO
        sequence:  sum_i (1/|y_i|) sum_t x_{i,t}  over sequences           GRPO, GSPO
        constant:  sum_{i,t} x_{i,t}              over sequences * length  Dr. GRPO

    |y_i| are the masked-in tokens of sequence i. A sequence without any is not counted (TRL counts
    it): padding and completions that `drop_truncated` took out change no mean.

    Args:
      values: [batch, time]; entries outside the mask, NaN included, are not read.
      mask: [batch, time] bool or 0/1.
      aggregation: "token", "sequence" or "constant".
      length: of a sequence under "constant", in tokens; commonly the longest completion allowed.
      sequences: of packed rows, as in `sequence_sum`.

    Returns:
      (sum, denominator): float32 scalars, to be added up over microbatches and hosts and divided
        once.

    Raises:
      ValueError: an unknown aggregation, or "constant" without a length.
    """
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation={aggregation!r}; choose from {', '.join(AGGREGATIONS)}")
    if aggregation == "constant" and (length is None or length <= 0):
        raise ValueError(
            f"length={length}; aggregation='constant' divides by it: give the longest completion"
        )
    mask = mask.astype(bool)
    values = jnp.where(mask, values, 0.0).astype(jnp.float32)
    if aggregation == "token":
        return jnp.sum(values), jnp.sum(mask, dtype=jnp.float32)
    ones = mask.astype(jnp.float32)
    share = ones / jnp.maximum(sequence_sum(ones, sequences), 1.0)
    if aggregation == "sequence":
        return jnp.sum(values * share), jnp.sum(share)
    return jnp.sum(values), length * jnp.sum(share)
