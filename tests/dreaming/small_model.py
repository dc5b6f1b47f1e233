"""A small model and random rows for the tests of dreaming."""

import jax
import jax.numpy as jnp

from sleep_jax.data.examples import Examples
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.decoder_config import DecoderConfig, LoraConfig


def model(targets=("q", "gate", "down")):
    cfg = DecoderConfig(
        vocab=31,
        width=16,
        hidden=24,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=8,
        tie_embeddings=True,
        remat="none",  # half the program to compile
        lora=LoraConfig(rank=2, alpha=4.0, targets=targets),
    )
    return cfg, Decoder(cfg).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))


def batch_of_rows(seed, items):
    tokens = jax.random.randint(jax.random.key(seed), (items, 2, 12), 0, 31)
    return Examples(
        tokens=tokens,
        segment_ids=jnp.ones_like(tokens),
        mask=jnp.ones(tokens.shape, bool).at[..., :4].set(False),
    )
