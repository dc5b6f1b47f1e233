"""Selection: Top-k and random per document, and importance as a cosine of gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from tests_dreaming import batch_of_rows, model

from sleep_jax.dreaming.select import importance, select
from sleep_jax.dreaming.trial import TrialConfig, init_lora
from sleep_jax.evals.likelihood import mean_nll


def test_the_top_of_each_document_and_some_others_are_kept():
    scores = [0.1, 0.9, 0.5, 0.2, 0.3, 0.8]
    documents = [0, 0, 0, 1, 1, 1]
    assert select(scores, documents, top=1, random=0, seed=0) == [1, 5]
    kept = select(scores, documents, top=1, random=1, seed=0)
    assert {1, 5} < set(kept) and len(kept) == 4 and len(set(kept)) == 4
    assert select(scores, documents, top=5, random=5, seed=0) == list(range(6))


def test_importance_is_the_cosine_of_the_two_gradients():
    cfg, variables = model()
    lora = init_lora(cfg, variables["params"], jax.random.key(3))
    dreams, targets = batch_of_rows(1, 3), batch_of_rows(2, 3)
    got = importance(cfg, TrialConfig(chunk=2), variables, lora, dreams, targets)

    gradient = jax.jit(jax.grad(lambda a, one: mean_nll(cfg, {**variables, "lora": a}, one)))

    def flat(examples, i):
        g = gradient(lora, jax.tree.map(lambda x: x[i], examples))
        return jnp.concatenate([x.ravel() for x in jax.tree.leaves(g)])

    for i in range(3):
        a, b = flat(dreams, i), flat(targets, i)
        want = a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
        np.testing.assert_allclose(got[i], want, rtol=1e-4, atol=1e-6)
    same = importance(cfg, TrialConfig(chunk=2), variables, lora, dreams, dreams)
    np.testing.assert_allclose(same, 1.0, rtol=1e-4)
