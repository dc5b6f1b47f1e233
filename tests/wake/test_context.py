"""Reading: what the cache of a document holds."""

import jax
import numpy as np

from sleep_jax.models.decoder import lm_logits
from sleep_jax.wake.context import read

RNG = np.random.default_rng(0)


def test_read_has_one_left_padded_row_a_document(cfg, trained, log_probs):
    documents = [RNG.integers(0, 97, n).tolist() for n in (14, 5)]
    cache, hidden, mask = read(cfg, trained, documents)
    np.testing.assert_array_equal(mask, np.arange(16) >= np.array([[2], [11]]))
    np.testing.assert_array_equal(cache["segment_ids"], mask)
    assert cache["index"] == 16
    for row, document in enumerate(documents):
        logits = lm_logits(cfg, trained["params"], hidden[row, -len(document) :])
        want = log_probs(trained, document)
        np.testing.assert_allclose(jax.nn.log_softmax(logits), want, rtol=0, atol=5e-5)
