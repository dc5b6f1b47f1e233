"""Log-probabilities of given tokens: what a trial learns by and what likelihood scorers read."""

import jax.numpy as jnp

from sleep_jax.data.examples import Examples
from sleep_jax.models.decoder import Decoder, lm_head
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.head import token_log_probs


def log_probs(cfg: DecoderConfig, variables, examples: Examples):
    """Log-probability of every scored token after what its segment has before it.

    Args:
      cfg: the decoder.
      variables: its collections; where `lora` holds adapters side by side, the leading axis of the
        examples is theirs.
      examples: [..., rows, time].

    Returns:
      float32 [..., rows, time], in nats; 0 on tokens that are not scored.
    """
    tokens, segments, mask = (
        jnp.reshape(x, (-1, x.shape[-1]))
        for x in (examples.tokens, examples.segment_ids, examples.mask)
    )
    hidden = Decoder(cfg).apply(variables, tokens, segments)
    scored = mask[:, 1:]
    found = token_log_probs(
        hidden[:, :-1].reshape(-1, cfg.width),
        tokens[:, 1:].reshape(-1),
        scored.reshape(-1),
        lm_head(cfg, variables["params"]),
    )
    found = jnp.where(scored, found.reshape(scored.shape), 0.0)
    return jnp.pad(found, ((0, 0), (1, 0))).reshape(examples.mask.shape)


def mean_nll(cfg: DecoderConfig, variables, examples: Examples):
    """Mean negative log-likelihood of the scored tokens in nats, [...] of [..., rows, time]: the
    SFT loss."""
    total = log_probs(cfg, variables, examples).sum((-2, -1))
    return -total / jnp.maximum(examples.mask[..., 1:].sum((-2, -1)), 1)
