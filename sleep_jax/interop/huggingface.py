"""Decoder config from a Hugging Face `config.json` (Llama 3, SmolLM2, Qwen 2.5, Qwen 3)."""

import json
import pathlib

from sleep_jax.models.config import DecoderConfig, RopeScaling

# What a field means where the file leaves it out: the defaults of each family in transformers.
_LLAMA = {"num_key_value_heads": None, "head_dim": None, "max_position_embeddings": 2048}
_QWEN2 = {"num_key_value_heads": 32, "head_dim": None, "max_position_embeddings": 32768}
_QWEN3 = {"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768}
ARCHITECTURES = {
    "LlamaForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _QWEN2,
    "Qwen3ForCausalLM": _QWEN3,
}


def read_config(folder: pathlib.Path) -> dict:
    """The parsed `config.json` of a model folder.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is not JSON.
    """
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"no config.json in {folder}; give a folder in Hugging Face layout or a .gguf file"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"cannot parse {path}: {error}") from error


def decoder_config(config_json: dict) -> DecoderConfig:
    """The decoder's shape.

    Args:
      config_json: parsed `config.json`, as written by transformers 4 or 5.

    Raises:
      ValueError: the architecture or a variant of it is not supported, or a field is missing.
    """
    named = config_json.get("architectures") or []
    architecture = named[0] if len(named) == 1 else None
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architectures={named!r}; supported: {', '.join(ARCHITECTURES)}")
    _reject_variants(config_json, architecture)

    fields = ARCHITECTURES[architecture] | config_json
    needed = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    )
    if missing := [name for name in needed if fields.get(name) is None]:
        raise ValueError(f"config.json has no {', '.join(missing)}; save the model's config again")
    heads = fields["num_attention_heads"]
    theta, scaling = _rope(config_json)
    return DecoderConfig(
        vocab=fields["vocab_size"],
        width=fields["hidden_size"],
        hidden=fields["intermediate_size"],
        layers=fields["num_hidden_layers"],
        heads=heads,
        kv_heads=fields["num_key_value_heads"] or heads,
        head_dim=fields["head_dim"] or fields["hidden_size"] // heads,
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=fields.get("rms_norm_eps", 1e-6),
        tie_embeddings=fields.get("tie_word_embeddings", False),
        attention_bias=architecture == "Qwen2ForCausalLM",
        qk_norm=architecture == "Qwen3ForCausalLM",
        max_position=fields["max_position_embeddings"],
    )


def _reject_variants(config: dict, architecture: str):
    """Variants that the decoder would compute wrongly without a word."""
    if config.get("quantization_config"):
        raise ValueError(
            "quantization_config is set; load the unquantized safetensors, or a GGUF file"
        )
    if config.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act={config['hidden_act']!r}; supported: 'silu'")
    if architecture != "Qwen2ForCausalLM" and config.get("attention_bias"):
        raise ValueError(
            f"attention_bias=True in {architecture}; supported: the q, k and v biases of "
            "Qwen2ForCausalLM"
        )
    if config.get("mlp_bias"):
        raise ValueError("mlp_bias=True; supported: no bias in the MLP")
    layers = config.get("num_hidden_layers", 0)
    windowed = config.get("use_sliding_window") and config.get("max_window_layers", 28) < layers
    if "layer_types" in config:
        windowed = any(kind != "full_attention" for kind in config["layer_types"] or ())
    if windowed:
        raise ValueError("the config asks for sliding-window attention; supported: full attention")


def _rope(config: dict) -> tuple[float, RopeScaling | None]:
    """Rotary base and scaling: `rope_parameters`, or `rope_theta` with `rope_scaling`."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta", config.get("rope_theta", 10000.0)))
    kind = rope.get("rope_type", rope.get("type", "default"))
    partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if partial != 1.0:
        raise ValueError(f"partial_rotary_factor={partial}; supported: 1.0")
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise ValueError(f"rope_type={kind!r}; supported: 'default', 'llama3'")
    needed = (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    )
    if missing := [name for name in needed if rope.get(name) is None]:
        raise ValueError(f"rope_type='llama3' needs {', '.join(missing)} beside it in config.json")
    return theta, RopeScaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_position=int(rope["original_max_position_embeddings"]),
    )
