"""Logits against transformers: a tiny random model of every family, and the real SmolLM2."""

import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.interop.load import load_model
from sleep_jax.interop.resolve import resolve
from sleep_jax.models.decoder import unstack_layers

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
# Wavelengths of 6 to 200 positions: kept, blended and divided by the factor, all three.
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
FAMILIES = {
    "llama3": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3)
    ),
    "smollm2": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZES, tie_word_embeddings=True)
    ),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(**SIZES, head_dim=16)  # heads * head_dim is not the width
    ),
}
TOKENS = np.random.default_rng(0).integers(0, 97, (2, 40))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tokenizer, tmp_path_factory):
    """A model folder, as transformers and the tokenizer write it, and the model's logits."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = FAMILIES[request.param]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and norm scales are all 0 and 1 otherwise
                parameter.add_(torch.randn_like(parameter) * 0.3)
        want = model(torch.tensor(TOKENS)).logits.numpy()
    model.save_pretrained(folder)
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    return str(folder), want


def test_logits_match_transformers(family, logits):
    folder, want = family
    cfg, params, _ = load_model(folder, dtype=jnp.float32)
    got = np.asarray(logits(cfg, {"params": params}, TOKENS))
    assert np.abs(want).max() > 1  # or the tolerance would say nothing
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)

    unrolled = cfg.replace(scan_layers=False, remat="none")
    got = np.asarray(logits(unrolled, unstack_layers(cfg, {"params": params}), TOKENS))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_smollm2_logits_match_transformers(logits):
    pytest.importorskip("accelerate")  # transformers reads GGUF files with it
    path = resolve("SmolLM2-135M-Instruct")
    cfg, params, tokenizer = load_model(str(path), dtype=jnp.float32)
    tokens = np.array([tokenizer.chat([{"role": "user", "content": "Why do rivers meander?"}])])
    file = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent if file else path, dtype=torch.float32, **file
    ).eval()
    with torch.no_grad():
        want = model(torch.tensor(tokens)).logits.numpy()
    del model
    got = np.asarray(logits(cfg, {"params": params}, tokens))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-3)
