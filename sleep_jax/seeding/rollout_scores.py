"""Log-probabilities and values of completions under a student, by the scorer: the forward pass that
the updates make, without a cache."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.models.decoder import lm_head
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.head import token_log_probs
from sleep_jax.models.sharding import to_host
from sleep_jax.rl.ppo import apply_value_head
from sleep_jax.seeding.objective import SeedingBatch, flat, scored_hidden
from sleep_jax.seeding.sequences import BatchShape, Exchange, batches, split_by_exchange
from sleep_jax.seeding.trunk import states_without_teacher


def score_completions(
    cfg: DecoderConfig,
    variables,
    exchanges: Sequence[Exchange],
    shape: BatchShape,
    value_head=None,
    trunks: Sequence[np.ndarray | None] | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Log-probabilities and values of all tokens of completions.

    Args:
      cfg, variables: the student.
      exchanges: whose completions are scored.
      shape: of the batches.
      value_head: None: values are 0.
      trunks: `HiddenStates.trunk` of each exchange, if known.

    Returns:
      (log_probs, values): lists with a float32 [completion] for each exchange.
    """
    scores: list[np.ndarray] = [None] * len(exchanges)
    states = states_without_teacher(exchanges, trunks or [None] * len(exchanges))
    for packed, batch in batches(exchanges, states, shape):
        rows = to_host(score_rows(cfg, variables, batch, value_head))
        for i, tokens in split_by_exchange(exchanges, packed, rows):
            scores[i] = tokens
    return [x[:, 0] for x in scores], [x[:, 1] for x in scores]


@jax.jit(static_argnames=("cfg",))
def score_rows(cfg: DecoderConfig, variables, batch: SeedingBatch, value_head):
    """Log-probability and value of every target token, float32 [batch, targets, 2]."""
    hidden = scored_hidden(cfg, variables, batch)
    head = lm_head(cfg, variables["params"])
    log_probs = token_log_probs(hidden, flat(batch.targets), flat(batch.mask), head)
    values = jnp.zeros_like(log_probs)
    if value_head is not None:
        values = apply_value_head(value_head, hidden[None])[0]
    return jnp.stack([log_probs, values], axis=-1).reshape(*batch.mask.shape, 2)
