"""A row holds the prompts' common opening once, and its sequences are scored as if each had its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.models.config import DecoderConfig
from sleep_jax.models.decoder import Decoder
from sleep_jax.seeding.sequences import BatchShape, Exchange, batch_of, packs
from sleep_jax.seeding.step import Objective, objective_terms

OPENING = (3, 1, 4)
CFG = DecoderConfig(
    vocab=31, width=16, hidden=24, layers=2, heads=2, kv_heads=1, head_dim=8, tie_embeddings=True
)


def exchange(prompt, completion):
    return Exchange(None, prompt, prompt, completion, "answer")


def test_sequences_that_share_the_opening_are_scored_as_if_alone():
    exchanges = [
        exchange((*OPENING, 7), (8, 9)),
        exchange((*OPENING, 5, 6), (2, 2, 11)),
        exchange((12, 13), (14, 15)),  # begins otherwise: stands alone
        exchange(OPENING, (16,)),  # a whole prompt is never shared
    ]
    variables = Decoder(CFG).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    hidden = [np.zeros((len(e.completion), CFG.width), np.float32) for e in exchanges]

    def cross_entropy(shape):
        rows = packs(exchanges, shape)
        batch = batch_of(exchanges, hidden, rows, shape)
        terms, _ = objective_terms(CFG, Objective(chunk=8), variables, batch)
        return rows, terms["cross_entropy"]

    one_row = BatchShape(rows=1, time=16, scored=8, opening=OPENING)
    packed, shared = cross_entropy(one_row)
    assert len(packed) == 1
    apart = BatchShape(rows=4, time=8, scored=4)
    _, alone = cross_entropy(apart)
    np.testing.assert_allclose(shared[0], alone[0], rtol=1e-5)
    assert shared[1] == alone[1] == 8
    without = dataclasses.replace(one_row, opening=())
    assert len(packs(exchanges, without)) > 1
