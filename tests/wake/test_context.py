"""Reading: what the cache of a document holds."""

import numpy as np

from sleep_jax.models.decoder import lm_logits
from sleep_jax.wake.context import read

RNG = np.random.default_rng(0)


def test_one_row_a_document_padded_on_the_left(cfg, trained, log_probs):
    documents = [RNG.integers(0, 97, n).tolist() for n in (18, 5)]
    cache, hidden, mask = read(cfg, trained, documents)
    np.testing.assert_array_equal(mask, np.arange(24) >= np.array([[6], [19]]))
    np.testing.assert_array_equal(cache["segment_ids"], mask)
    assert cache["index"] == 24
    for row, document in enumerate(documents):
        logits = np.asarray(lm_logits(cfg, trained["params"], hidden[row, -len(document) :]))
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        np.testing.assert_allclose(logits, log_probs(trained, document), rtol=0, atol=5e-5)
