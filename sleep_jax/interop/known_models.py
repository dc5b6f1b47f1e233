"""Decoder configs of known models without weights, for plans and ahead-of-time compilation."""

import pathlib

import jax.numpy as jnp

from sleep_jax.interop import huggingface
from sleep_jax.interop.tiny import tiny_config
from sleep_jax.models.decoder_config import DecoderConfig

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
}
_LLAMA32 = _LLAMA | {
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 151936,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}


def _sizes(width: int, hidden: int, layers: int, **more) -> dict:
    return {"hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers} | more


# The fields of each model's config.json that the decoder reads.
CONFIGS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": _LLAMA
    | _sizes(576, 1536, 30, num_attention_heads=9, num_key_value_heads=3, vocab_size=49152)
    | {"rope_theta": 1e5, "tie_word_embeddings": True},
    "meta-llama/Llama-3.2-1B-Instruct": _LLAMA32 | _sizes(2048, 8192, 16, head_dim=64),
    "meta-llama/Llama-3.2-3B-Instruct": _LLAMA32
    | _sizes(3072, 8192, 28, num_attention_heads=24, head_dim=128),
    "meta-llama/Meta-Llama-3-8B-Instruct": _LLAMA | _sizes(4096, 14336, 32),
    "Qwen/Qwen3-1.7B": _QWEN3
    | _sizes(2048, 6144, 28, num_attention_heads=16, tie_word_embeddings=True),
    "Qwen/Qwen3-8B": _QWEN3 | _sizes(4096, 12288, 36, num_attention_heads=32),
}


def describe_model(name: str, *, dtype, **overrides) -> DecoderConfig:
    """The config that `load_model` or `tiny_model` returns, without reading a weight.

    Args:
      name: `tiny`, a name in `CONFIGS` or its last part, a folder or a .gguf file.
      dtype, **overrides: other fields of `DecoderConfig`.

    Raises:
      ValueError: no model of this name is known; lists those that are.
    """
    dtype = jnp.dtype(dtype).type
    if name == "tiny":
        return tiny_config(dtype=dtype, **overrides)
    known = CONFIGS | {full.rpartition("/")[2]: fields for full, fields in CONFIGS.items()}
    if name in known:
        return huggingface.decoder_config(known[name]).replace(dtype=dtype, **overrides)
    path = pathlib.Path(name).expanduser()
    if not path.is_dir() and path.suffix != ".gguf":
        raise ValueError(
            f"model.name={name!r} is not a known model ({', '.join(CONFIGS)}); give one of those, "
            "or a folder with its config.json: nothing is downloaded here"
        )
    if path.suffix == ".gguf":
        # A local import: the gguf package is needed only for GGUF files.
        from sleep_jax.interop import gguf

        cfg = gguf.decoder_config(gguf.GGUFFile(path))
    else:
        cfg = huggingface.decoder_config(huggingface.read_config(path))
    return cfg.replace(dtype=dtype, **overrides)
