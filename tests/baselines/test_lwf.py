"""Learning without forgetting: its loss by hand, and less of what was said before is lost."""

import jax
import numpy as np
import pytest
from plain_model import plain_logits

from sleep_jax.baselines.lwf import LwFConfig, lwf_loss
from sleep_jax.baselines.model import Leaves
from sleep_jax.baselines.sft import SFTConfig, cross_entropy, rows_of, sft, with_lora
from sleep_jax.models.decoder_config import LoraConfig

LORA = LoraConfig(rank=2, alpha=4.0, targets=("q", "down"))
PAIRS = [((1, 2), (5, 6, 7)), ((3,), (9, 10))]


@pytest.fixture(scope="module")
def model(loud):
    return with_lora(loud, LORA, jax.random.key(0))


def learnt(model, config):
    loss, figures = lwf_loss(model, Leaves("lora/.*"), config), []
    sft_config = SFTConfig(epochs=6, batch_size=0, learning_rate=3e-2)
    trained = sft(model, Leaves("lora/.*"), PAIRS, sft_config, rng=jax.random.key(1), loss=loss,
                  log=lambda _, x: figures.append(x))  # fmt: skip
    return trained, figures


def test_lwf_loss_by_hand_and_the_model_before_is_what_it_stays_near_to(model):
    free, figures = learnt(model, LwFConfig(weight=0.0))
    assert figures[0]["kl"] == pytest.approx(0, abs=1e-6) and figures[-1]["kl"] > 0.01
    rows = rows_of(PAIRS)

    def log_p(m):
        logits = plain_logits(m.replace(tokenizer=None), rows.tokens, rows.segment_ids)[:, :-1]
        logits = np.asarray(logits, np.float64) / 3
        return (logits - np.logaddexp.reduce(logits, -1, keepdims=True))[rows.mask[:, 1:]]

    new, old = log_p(free), log_p(model)
    kl = np.sum(np.exp(old) * (old - new))
    loss = lwf_loss(model, Leaves("lora/.*"), LwFConfig(weight=2.0, temperature=3.0))
    total, count, terms = jax.jit(loss)(free, rows, None)
    plain, tokens = jax.jit(cross_entropy)(free, rows, None)
    np.testing.assert_allclose(terms["kl"][0], kl, rtol=1e-3)
    np.testing.assert_allclose(total, plain + 2 * kl, rtol=1e-4)
    assert count == tokens == 5
    assert learnt(model, LwFConfig(weight=30.0))[1][-1]["kl"] < 0.5 * figures[-1]["kl"]
