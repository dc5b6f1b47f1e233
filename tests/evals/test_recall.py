"""Recall and retention: likelihoods by hand, answers by containment."""

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.evals.recall import AnchorSet, answer_accuracy, negative_log_likelihood
from sleep_jax.models.decoder import Decoder, lm_logits
from sleep_jax.models.decoder_config import DecoderConfig

CFG = DecoderConfig(
    vocab=31, width=16, hidden=24, layers=2, heads=2, kv_heads=1, head_dim=8, tie_embeddings=True
)


def test_negative_log_likelihood_skips_first_tokens():
    variables = Decoder(CFG).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    texts = [(3, 1, 4, 1), (5, 9)]
    want = 0.0
    for text in texts:
        tokens = jnp.array([text])
        log_p = jax.nn.log_softmax(
            lm_logits(CFG, variables["params"], Decoder(CFG).apply(variables, tokens))[0]
        )
        want -= sum(float(log_p[i, text[i + 1]]) for i in range(len(text) - 1))
    anchors = AnchorSet.from_sequences(texts)
    total, count = negative_log_likelihood(CFG, variables, anchors.tokens, anchors.mask)
    assert count == 4
    np.testing.assert_allclose(total, want, rtol=1e-5)


def test_answer_accuracy_counts_replies_with_an_answer():
    replies = ["It is 53 metres tall.", "Nobody knows."]
    assert answer_accuracy(replies, [("53 metres", "53 m"), ("Odrin",)]) == 0.5
