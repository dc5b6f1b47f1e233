"""Models under many adapters: replies and scores of a batch equal those of single models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.data.examples import make_examples
from sleep_jax.dreaming.adapters import init_lora
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.evals.likelihood import mean_nll
from sleep_jax.models.decoder_config import LoraConfig
from sleep_jax.sampling.generate import generate
from sleep_jax.sampling.sampler import SamplingConfig

loss = jax.jit(mean_nll, static_argnums=0)


@pytest.fixture(scope="module")
def models(cfg, trained, tokenizer):
    """Five adapters with large weights, on all linear layers."""
    cfg = cfg.replace(lora=LoraConfig(rank=2, alpha=4.0, targets=("q", "v", "o", "up", "down")))
    lora = init_lora(cfg, trained["params"], jax.random.key(0))
    leaves, tree = jax.tree.flatten(lora)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    wide = [0.3 * jax.random.normal(k, (x.shape[0], 5, *x.shape[1:])) for k, x in zip(keys, leaves)]
    return AdaptedModels(cfg, trained, tokenizer, tree.unflatten(wide), max_new_tokens=6, batch=8)


def single_model(models, i):
    return {**models.variables, "lora": jax.tree.map(lambda x: x[:, i], models.adapters)}


def test_replies_of_a_batch_equal_single_models(models, compilations):
    prompts = [[(5, 9, 2), (7,)], [(5, 9, 2)], [(8, 8), (7,), (4, 4)], [(7,)], [(5, 9, 2)]]
    got = models.replies(prompts)
    # Three rows each, eight in a batch: three parts of two models, one program for all of them.
    count = len(compilations)
    models.replies([[(1,)] * 3] * 5)
    assert len(compilations) == count
    assert [*map(len, got)] == [2, 1, 3, 1, 1] and got[0][0] != got[1][0]
    greedy = SamplingConfig(6, models.tokenizer.eos_ids, temperature=0.0)
    for i, model_inputs in enumerate(prompts):
        drawn = generate(
            models.cfg,
            greedy,
            single_model(models, i),
            model_inputs * 3,
            jax.random.key(0),
            width=16,
            batch=3,
        )
        assert got[i] == [
            models.tokenizer.decode(c.tokens).strip() for [c] in drawn[: len(model_inputs)]
        ]


def test_log_likelihoods_of_a_batch_equal_single_models(models):
    sequences = [
        [((5, 9), (2, 3, 4)), ((7,), (6,))],
        *[[((5, 9), (2, 3, 4))]] * 4,
    ]
    got = models.log_likelihoods(sequences)
    assert [model_inputs[:, 1].tolist() for model_inputs in got] == [[3, 1], [3], [3], [3], [3]]
    for i in range(5):
        nll = loss(models.cfg, single_model(models, i), _one_row((5, 9, 2, 3, 4), 2))
        np.testing.assert_allclose(got[i][0, 0], -3 * nll, rtol=1e-4)


def test_models_without_adapters_are_the_base(models):
    base = models.with_adapters(None)
    sequences = [[((5, 9), (2, 3, 4))]] * 3
    got = base.log_likelihoods(sequences)
    nll = loss(models.cfg, models.variables, _one_row((5, 9, 2, 3, 4), 2))
    np.testing.assert_allclose(
        [model_inputs[0, 0] for model_inputs in got], [-3 * nll] * 3, rtol=1e-4
    )
    many = [[((5, 9), (2, 3, 4))] * 19]  # more rows than a batch
    np.testing.assert_allclose(base.log_likelihoods(many)[0][:, 0], -3 * nll, rtol=1e-4)
    with pytest.raises(ValueError, match="model 1 has no input"):
        base.replies([[(1,)], []])


def _one_row(tokens, prompt_length):
    packed = make_examples([[(tokens[:prompt_length], tokens[prompt_length:])]])
    return jax.tree.map(lambda x: jnp.asarray(x[0]), packed)
