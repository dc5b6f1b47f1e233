"""A model's last hidden states and logits, whole and jitted: what tests compare with."""

import jax

from sleep_jax.models.decoder import Decoder, lm_logits


@jax.jit
def plain_hidden(model, tokens, segment_ids=None):
    """float32 [rows, time, d] of tokens [rows, time]."""
    return Decoder(model.cfg).apply(model.variables, tokens, segment_ids)


@jax.jit
def plain_logits(model, tokens, segment_ids=None):
    """float32 [rows, time, vocab]."""
    hidden = Decoder(model.cfg).apply(model.variables, tokens, segment_ids)
    return lm_logits(model.cfg, model.variables["params"], hidden)
