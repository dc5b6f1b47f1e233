"""Decoder config from a Hugging Face `config.json` (Llama 3, SmolLM2, Qwen 2.5, Qwen 3), and
back.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from sleep_jax.fields import Fields, one_of, read_object, shown
from sleep_jax.models.decoder_config import DecoderConfig, RopeScaling

# Upper bounds of shapes in a config file, since they decide how much memory is allocated.
MAX_LAYERS, MAX_HEADS, MAX_WIDTH, MAX_VOCAB = 1000, 4096, 2**20, 2**24
MIN_EPS = 1e-30  # of a norm: its inverse root is still finite in float32
ROTARY_BASE = (1.0, 1e15)  # (least, most)
SCALING = (1.0, 1e6)

# Defaults of the fields that a file may omit, per family, as in transformers.
_LLAMA = {"num_key_value_heads": None, "head_dim": None, "max_position_embeddings": 2048}
_QWEN2 = {"num_key_value_heads": 32, "head_dim": None, "max_position_embeddings": 32768}
_QWEN3 = {"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768}
ARCHITECTURES = {
    "LlamaForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _QWEN2,
    "Qwen3ForCausalLM": _QWEN3,
}


def read_config(folder: pathlib.Path) -> Fields:
    """The fields of the `config.json` of a model folder.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not a JSON object.
    """
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"no config.json in {folder}; give a folder in Hugging Face layout or a .gguf file"
        )
    return read_object(path)


def decoder_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder config of a Hugging Face config.

    Args:
      config: the fields of `config.json`, as written by transformers 4 or 5.

    Raises:
      ValueError: the architecture or a variant of it is not supported, a field is missing, has
        another type or is out of range, or two fields contradict each other.
    """
    fields = config if isinstance(config, Fields) else Fields(config, "config.json")
    listed = fields.texts("architectures", None)
    architecture = listed[0] if listed and len(listed) == 1 else None
    if architecture not in ARCHITECTURES:
        supported = ", ".join(ARCHITECTURES)
        raise ValueError(f"{fields.where}: architectures={shown(listed)}; supported: {supported}")
    _reject_variants(fields, architecture)

    family = ARCHITECTURES[architecture]
    width = fields.whole("hidden_size", 1, MAX_WIDTH)
    heads = fields.whole("num_attention_heads", 1, MAX_HEADS)
    kv_heads, head_dim = (
        fields.whole(name, 1, MAX_HEADS, default=None) if name in fields else family[name]
        for name in ("num_key_value_heads", "head_dim")
    )
    if not head_dim and width % heads:
        fields.refuse("num_attention_heads", f"a divisor of hidden_size={width}, or head_dim too")
    theta, scaling = _rope(fields)
    shape = {
        "vocab": fields.whole("vocab_size", 1, MAX_VOCAB),
        "width": width,
        "hidden": fields.whole("intermediate_size", 1, MAX_WIDTH),
        "layers": fields.whole("num_hidden_layers", 1, MAX_LAYERS),
        "heads": heads,
        "kv_heads": kv_heads or heads,
        "head_dim": head_dim or width // heads,
        "rope_theta": theta,
        "rope_scaling": scaling,
        "norm_eps": fields.number("rms_norm_eps", MIN_EPS, 1, 1e-6),
        "tie_embeddings": fields.flag("tie_word_embeddings", False),
        "attention_bias": architecture == "Qwen2ForCausalLM",
        "qk_norm": architecture == "Qwen3ForCausalLM",
        "max_position": fields.whole(
            "max_position_embeddings", 1, default=family["max_position_embeddings"]
        ),
    }
    try:
        return DecoderConfig(**shape)
    except ValueError as error:
        raise ValueError(f"{fields.where}: {error}") from error


def config_fields(cfg: DecoderConfig, dtype: str) -> dict[str, Any]:
    """The fields of a `config.json` that `decoder_config` reads as this decoder.

    Args:
      cfg: a decoder without memory.
      dtype: of the stored weights, e.g. `bfloat16`.
    """
    architecture = architecture_of(cfg)
    fields = {
        "architectures": [architecture],
        "model_type": architecture.removesuffix("ForCausalLM").lower(),
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.width,
        "intermediate_size": cfg.hidden,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": cfg.norm_eps,
        "rope_theta": cfg.rope_theta,
        "max_position_embeddings": cfg.max_position,
        "tie_word_embeddings": cfg.tie_embeddings,
        "attention_dropout": 0.0,
        "use_cache": True,
        "torch_dtype": dtype,
    }
    if cfg.rope_scaling is not None:
        scaling = dataclasses.asdict(cfg.rope_scaling)
        scaling["original_max_position_embeddings"] = scaling.pop("original_max_position")
        fields["rope_scaling"] = {"rope_type": "llama3", **scaling}
    return fields


def architecture_of(cfg: DecoderConfig) -> str:
    """The architecture of a decoder, one of `ARCHITECTURES`."""
    if cfg.qk_norm:
        return "Qwen3ForCausalLM"
    return "Qwen2ForCausalLM" if cfg.attention_bias else "LlamaForCausalLM"


def _reject_variants(fields: Fields, architecture: str):
    """Raises a ValueError for variants that the decoder would silently compute wrongly."""
    if fields.get("quantization_config"):
        raise ValueError(
            f"{fields.where}: quantization_config is set; load the unquantized safetensors, or a "
            "GGUF file"
        )
    if fields.text("hidden_act", "silu") != "silu":
        fields.refuse("hidden_act", "a model with 'silu', the only one supported")
    if fields.flag("attention_bias", None) and architecture != "Qwen2ForCausalLM":
        raise ValueError(
            f"{fields.where}: attention_bias=True in {architecture}; supported: the q, k and v "
            "biases of Qwen2ForCausalLM"
        )
    if fields.flag("mlp_bias", None):
        fields.refuse("mlp_bias", "a model with no bias in the MLP, the only one supported")
    windowed = fields.flag("use_sliding_window", None) and fields.whole(
        "max_window_layers", default=28
    ) < fields.whole("num_hidden_layers", 1, MAX_LAYERS)
    if "layer_types" in fields:
        kinds = fields.texts("layer_types", None) or ()
        windowed = any(kind != "full_attention" for kind in kinds)
    if windowed:
        raise ValueError(
            f"{fields.where}: it asks for sliding-window attention; supported: full attention"
        )


def _rope(fields: Fields) -> tuple[float, RopeScaling | None]:
    """(rotary base, scaling), from `rope_parameters`, or from `rope_theta` and `rope_scaling`."""
    name = "rope_scaling" if fields.get("rope_parameters") is None else "rope_parameters"
    rope = fields.section(name, None)
    theta = rope.number("rope_theta", *ROTARY_BASE, fields.number("rope_theta", *ROTARY_BASE, 1e4))
    for section in (rope, fields):
        if section.number("partial_rotary_factor", 0, 1, 1.0) != 1.0:
            section.refuse("partial_rotary_factor", "1.0, the only one supported")
    type_field = "rope_type" if "rope_type" in rope else "type"
    kind = rope.text(type_field, "default")
    if kind == "default":
        return theta, None
    if kind != "llama3":
        rope.refuse(type_field, f"{one_of(('default', 'llama3'))}, the only ones supported")
    low = rope.number("low_freq_factor", 1e-6, SCALING[1])
    return theta, RopeScaling(
        factor=rope.number("factor", *SCALING),
        low_freq_factor=low,
        high_freq_factor=rope.number("high_freq_factor", low * 1.000001, SCALING[1]),
        original_max_position=rope.whole("original_max_position_embeddings", 1),
    )
