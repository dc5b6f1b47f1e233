import json

import pytest
import transformers

from sleep_jax.interop.huggingface import config_fields, decoder_config, read_config
from sleep_jax.interop.known_models import CONFIGS
from sleep_jax.models.decoder_config import RopeScaling

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
OLD = {"architectures": ["LlamaForCausalLM"], **SIZES}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def written(config, architecture, tmp_path):
    """The config.json that transformers writes."""
    config.architectures = [architecture]
    config.save_pretrained(tmp_path)
    return read_config(tmp_path)


def test_decoder_config_of_llama3(tmp_path):
    config = transformers.LlamaConfig(
        **SIZES, rope_parameters=LLAMA3 | {"rope_theta": 5e5}, rms_norm_eps=1e-5
    )
    cfg = decoder_config(written(config, "LlamaForCausalLM", tmp_path))
    assert (cfg.vocab, cfg.width, cfg.hidden, cfg.layers) == (97, 32, 48, 2)
    assert (cfg.heads, cfg.kv_heads, cfg.head_dim) == (4, 2, 8)
    assert (cfg.rope_theta, cfg.norm_eps, cfg.max_position) == (5e5, 1e-5, 128)
    assert cfg.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 64)
    assert not (cfg.tie_embeddings or cfg.attention_bias or cfg.qk_norm)


@pytest.mark.parametrize("name", CONFIGS)
def test_config_fields_are_read_as_the_same_decoder(name, tmp_path):
    cfg = decoder_config(CONFIGS[name])
    fields = config_fields(cfg, "bfloat16")
    assert decoder_config(fields) == cfg
    (tmp_path / "config.json").write_text(json.dumps(fields))
    peer = transformers.AutoConfig.from_pretrained(tmp_path)  # and by transformers
    assert decoder_config(written(peer, fields["architectures"][0], tmp_path)) == cfg


def test_old_and_new_rope_fields_agree():
    old = OLD | {"rope_theta": 5e5, "rope_scaling": LLAMA3}
    new = OLD | {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}}
    assert decoder_config(old) == decoder_config(new)
    assert decoder_config(old).rope_scaling == RopeScaling(8.0, 1.0, 4.0, 64)
    plain = decoder_config(OLD | {"rope_theta": 1e5, "rope_scaling": None})
    assert (plain.rope_theta, plain.rope_scaling) == (1e5, None)


@pytest.mark.parametrize(
    "config, architecture, differs",
    [
        (transformers.LlamaConfig, "LlamaForCausalLM", {}),
        (transformers.Qwen2Config, "Qwen2ForCausalLM", {"attention_bias": True}),
        (transformers.Qwen3Config, "Qwen3ForCausalLM", {"qk_norm": True}),
    ],
)
def test_missing_fields_have_family_defaults(config, architecture, differs):
    given = {"vocab_size": 97, "hidden_size": 256, "intermediate_size": 48, "num_hidden_layers": 2}
    given["num_attention_heads"] = 32
    cfg = decoder_config({"architectures": [architecture], **given})
    peer = config(**given)
    assert cfg.kv_heads == peer.num_key_value_heads
    assert cfg.head_dim == (getattr(peer, "head_dim", None) or 256 // 32)
    assert cfg.max_position == peer.max_position_embeddings
    assert cfg.norm_eps == peer.rms_norm_eps
    assert cfg.rope_theta == peer.rope_parameters["rope_theta"]
    assert cfg.tie_embeddings == peer.tie_word_embeddings
    variants = {"attention_bias": False, "qk_norm": False} | differs
    assert {name: getattr(cfg, name) for name in variants} == variants


def test_qwen25_with_unused_sliding_window_loads():
    # Qwen 2.5 has these three fields, but no window in effect.
    idle = {"use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 1}
    cfg = decoder_config(OLD | {"architectures": ["Qwen2ForCausalLM"]} | idle)
    assert cfg.attention_bias


@pytest.mark.parametrize(
    "change, message",
    [
        ({"architectures": ["MixtralForCausalLM"]}, "Mixtral.*supported: Llama.*Qwen2.*Qwen3"),
        ({"architectures": ["Qwen3MoeForCausalLM"]}, "Qwen3Moe.*supported: LlamaForCausalLM"),
        ({"architectures": None}, "supported: LlamaForCausalLM"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_scaling.type='linear'; give 'def",
        ),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'.*'llama3'"),
        (
            {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
            "has no rope_parameters.low_freq_fac",
        ),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window"),
        ({"use_sliding_window": True, "max_window_layers": 1}, "sliding-window"),
        ({"attention_bias": True}, "attention_bias=True in LlamaForCausalLM"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"quantization_config": {"bits": 4}}, "unquantized"),
        ({"hidden_size": None}, "hidden_size=None; give a whole number from 1 to 1048576"),
    ],
)
def test_unsupported_variants_raise(change, message):
    with pytest.raises(ValueError, match=message):
        decoder_config(OLD | change)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rms_norm_eps": "1e-5"}, "config.json: rms_norm_eps='1e-5'; give a number from 1e-30 to"),
        ({"rms_norm_eps": None}, "rms_norm_eps=None"),
        ({"rms_norm_eps": 0}, "rms_norm_eps=0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan"),
        ({"num_attention_heads": 0}, "num_attention_heads=0; give a whole number from 1 to 4096"),
        ({"num_attention_heads": True}, "num_attention_heads=True"),
        ({"num_attention_heads": 5}, "num_attention_heads=5; give a divisor of hidden_size=32"),
        ({"num_attention_heads": [4, 4]}, r"num_attention_heads=\[4, 4\]"),
        ({"num_key_value_heads": 3}, "config.json: kv_heads=3 does not divide heads=4"),
        ({"head_dim": 7}, "config.json: head_dim=7 is odd"),
        ({"vocab_size": "97"}, "vocab_size='97'"),
        ({"vocab_size": 97.5}, "vocab_size=97.5"),
        (
            {"num_hidden_layers": 10**15},
            "num_hidden_layers=10+; give a whole number from 1 to 1000",
        ),
        ({"intermediate_size": -48}, "intermediate_size=-48"),
        ({"max_position_embeddings": float("inf")}, "max_position_embeddings=inf"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings='false'; give true or false"),
        ({"hidden_act": {}}, "hidden_act={}"),
        ({"architectures": "LlamaForCausalLM"}, "architectures='LlamaForCausalLM'; give a list"),
        ({"architectures": [["LlamaForCausalLM"]]}, "architectures="),
        ({"layer_types": "full_attention"}, "layer_types='full_attention'; give a list of strings"),
        ({"rope_scaling": "linear"}, "rope_scaling='linear'; give an object"),
        ({"rope_theta": "1e5"}, "rope_theta='1e5'; give a number"),
        ({"rope_theta": -1}, "rope_theta=-1"),
        ({"rope_scaling": LLAMA3 | {"factor": 0}}, "rope_scaling.factor=0; give a number from 1"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "rope_scaling.high_freq_factor=1.0"),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": 0}}, "rope_scaling.low_freq_factor=0"),
        (
            {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 0}},
            "original_max_position_embeddings=0",
        ),
    ],
)
def test_decoder_config_checks_types_and_ranges(change, message):
    with pytest.raises(ValueError, match=message) as error:
        decoder_config(OLD | change)
    assert str(error.value).count("\n") == 0


def test_null_fields_have_defaults():
    null = {"head_dim": None, "num_key_value_heads": None, "rope_scaling": None}
    cfg = decoder_config(OLD | null)
    assert (cfg.head_dim, cfg.kv_heads, cfg.rope_scaling) == (8, 4, None)


@pytest.mark.parametrize("content", ["[]", "null", "3", '"config"'])
def test_read_config_of_non_object_raises(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json holds .*; it must be an object"):
        read_config(tmp_path)


def test_read_config_of_deep_nesting_raises(tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"cannot parse .*config\.json"):
        read_config(tmp_path)


def test_config_file_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(OLD)[:40])
    with pytest.raises(ValueError, match=r"cannot parse .*config\.json"):
        read_config(tmp_path)
