"""Log-probabilities of given tokens: the loss of trials and the score of likelihood scorers."""

import jax
import jax.numpy as jnp

from sleep_jax.data.examples import Examples
from sleep_jax.models.decoder import Decoder, lm_head
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.head import token_log_probs, token_log_probs_with_head, token_scores


def log_probs(cfg: DecoderConfig, variables, examples: Examples):
    """Log-probability of every scored token, given the tokens of its segment before it. The LM head
    gets no gradient.

    Args:
      cfg: the decoder.
      variables: its collections; if `lora` holds stacked adapters, the leading axis of the examples
        is that of the adapters.
      examples: [..., rows, time].

    Returns:
      float32 [..., rows, time], in nats; 0 on tokens that are not scored.
    """
    return _of_scored(token_log_probs, cfg, variables, examples)


def log_probs_with_head(cfg: DecoderConfig, variables, examples: Examples):
    """`log_probs` whose gradient reaches the LM head, too."""
    return _of_scored(token_log_probs_with_head, cfg, variables, examples)


def log_probs_and_greedy(cfg: DecoderConfig, variables, examples: Examples):
    """`log_probs` without gradients, and whether each scored token is the likeliest one there, bool
    [..., rows, time]."""
    return _of_scored(token_scores, cfg, variables, examples)


def _of_scored(function, cfg, variables, examples):
    """What a function (hidden, targets, mask, head) -> arrays [tokens] makes of all tokens, as
    arrays in the shape of the examples; zeros on tokens that are not scored."""
    tokens, segments, mask = (
        jnp.reshape(x, (-1, x.shape[-1]))
        for x in (examples.tokens, examples.segment_ids, examples.mask)
    )
    hidden = Decoder(cfg).apply(variables, tokens, segments)
    scored = mask[:, 1:]
    result = function(
        hidden[:, :-1].reshape(-1, cfg.width),
        tokens[:, 1:].reshape(-1),
        scored.reshape(-1),
        lm_head(cfg, variables["params"]),
    )

    def in_shape(x):
        x = jnp.where(scored, x.reshape(scored.shape), jnp.zeros((), x.dtype))
        return jnp.pad(x, ((0, 0), (1, 0))).reshape(examples.mask.shape)

    return jax.tree.map(in_shape, result)


def mean_nll(cfg: DecoderConfig, variables, examples: Examples):
    """The SFT loss: mean negative log-likelihood of the scored tokens.

    Args:
      cfg, variables: as for `log_probs`.
      examples: [..., rows, time].

    Returns:
      float32 [...], in nats a token.
    """
    total = log_probs(cfg, variables, examples).sum((-2, -1))
    return -total / jnp.maximum(examples.mask[..., 1:].sum((-2, -1)), 1)
