"""Completions of ragged prompts: same as alone, in order, whatever the batch."""

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from sleep_jax.models.sharding import AXES
from sleep_jax.sampling.generate import generate, prompts_per_call
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.wake.context import read

RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(0, 97, n).tolist() for n in (3, 14, 7, 1, 9)]
DOCUMENTS = [RNG.integers(0, 97, n).tolist() for n in (12, 4)]
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def greedy(trained, log_probs):
    """Greedy completion of one prompt by full forward passes, up to an end."""

    def complete(prompt, limit=4, ends=()):
        tokens = list(prompt)
        while len(tokens) < len(prompt) + limit and not (
            len(tokens) > len(prompt) and tokens[-1] in ends
        ):
            tokens.append(int(log_probs(trained, tokens)[-1].argmax()))
        return tuple(tokens[len(prompt) :])

    return complete


def test_generate_returns_prompts_of_any_length_in_order(
    cfg, trained, greedy, log_probs, compilations
):
    ends = (greedy(PROMPTS[1])[1],)
    config = SamplingConfig(4, ends, temperature=0.0, num_generations=2)
    # Two prompts at a time: the last batch is filled up.
    out = generate(cfg, config, trained, PROMPTS, KEY, batch=4)
    assert [len(group) for group in out] == [2] * 5
    for prompt, group in zip(PROMPTS, out):
        for completion in group:
            assert completion.tokens == greedy(prompt, ends=ends)
            assert completion.finished == (completion.tokens[-1] in ends)
            table = log_probs(trained, [*prompt, *completion.tokens])[len(prompt) - 1 :]
            want = [table[i, t] for i, t in enumerate(completion.tokens)]
            np.testing.assert_allclose(completion.log_probs, want, rtol=0, atol=5e-5)
    assert out[1][0].finished and len(out[1][0].tokens) <= 2

    # Other prompts of the same bucket run the same program.
    compilations.clear()
    generate(cfg, config, trained, [p[::-1] for p in PROMPTS], KEY, batch=4)
    assert not compilations


def test_generate_from_a_context_equals_the_document_in_the_prompt(cfg, trained, greedy):
    context, _, _ = read(cfg, trained, [*DOCUMENTS, []])
    config = SamplingConfig(6, (), temperature=0.0)
    documents = [1, 0, 2]
    out = generate(
        cfg, config, trained, PROMPTS[:3], KEY, context=context, documents=documents, batch=3
    )
    for prompt, document, [completion] in zip(PROMPTS, documents, out):
        assert completion.tokens == greedy([*DOCUMENTS, []][document] + prompt, limit=6)
        assert not completion.finished


def test_generate_uses_different_keys_for_batches(cfg, trained):
    config = SamplingConfig(6, (), temperature=1.0, num_generations=4)
    out = generate(cfg, config, trained, [PROMPTS[0]] * 6, KEY, batch=12)
    drawn = [c.tokens for group in out for c in group]
    assert len(set(drawn)) > 12  # three prompts a batch: a repeated batch would give 12 at most


def test_prompts_per_call_fills_the_rows_that_every_shard_has():
    assert prompts_per_call(16, 8, 64) == 8 and prompts_per_call(9, 8, 64) == 5
    mesh = AbstractMesh((1, 16, 1), AXES, (AxisType.Auto,) * 3)
    with jax.sharding.use_abstract_mesh(mesh):
        assert prompts_per_call(16, 8, 64) == 16  # 8 would be 16 rows as well
        assert prompts_per_call(40, 1, 64) == 40 and prompts_per_call(100, 1, 64) == 50
        assert prompts_per_call(16, 8, 64, has_adapters=True) == 8
