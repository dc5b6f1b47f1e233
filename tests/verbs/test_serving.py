"""On how many devices, and in which types, servers take an exported model: by hand."""

import json

import pytest

from sleep_jax.export.serving import k_quant, parallel_sizes, serving_lines
from sleep_jax.interop.huggingface import config_fields
from sleep_jax.interop.known_models import describe_model

RANK = 16  # of a slot: a night
EIGHT_B = [1, 2, 4, 8, 16]  # 32 heads, 8 key-value heads


def widened(name, pad):
    """The config of a model with a night's slot, its FFN padded."""
    cfg = describe_model(name, dtype="bfloat16")
    return cfg.replace(hidden=-(-(cfg.hidden + RANK) // pad) * pad)


@pytest.mark.parametrize(
    ("name", "pad", "hidden", "sizes", "fp8", "marlin"),
    [
        # 9 heads and 3 key-value heads of 64, 576 wide: no multiple of 128, and 3 splits no FFN.
        ("SmolLM2-135M-Instruct", 1, 1552, [1], [], []),
        ("SmolLM2-135M-Instruct", 64, 1600, [1], [], []),
        ("SmolLM2-135M-Instruct", 256, 1792, [1], [], []),
        ("SmolLM2-135M-Instruct", 192, 1728, [1, 3, 9], [], []),
        ("Qwen3-8B", 1, 12304, EIGHT_B, [], []),
        ("Qwen3-8B", 64, 12352, EIGHT_B, [], []),  # 96.5 blocks of 128
        ("Qwen3-8B", 256, 12544, EIGHT_B, [1, 2], [1, 2]),  # 98 blocks
        ("Qwen3-8B", 1024, 13312, EIGHT_B, [1, 2, 4, 8], [1, 2, 4, 8]),  # 104 blocks
        ("Meta-Llama-3-8B-Instruct", 1, 14352, EIGHT_B, [], []),
        ("Meta-Llama-3-8B-Instruct", 64, 14400, EIGHT_B, [], []),  # 112.5 blocks
        ("Meta-Llama-3-8B-Instruct", 256, 14592, EIGHT_B, [1, 2], [1, 2]),  # 114 blocks
    ],
)
def test_parallel_sizes_of_known_models(name, pad, hidden, sizes, fp8, marlin):
    cfg = widened(name, pad)
    assert cfg.hidden == hidden
    assert parallel_sizes(cfg) == sizes
    assert parallel_sizes(cfg, "FP8 blocks") == fp8
    assert parallel_sizes(cfg, "Marlin") == marlin


def test_parallel_sizes_with_few_key_value_heads():
    cfg = widened("Qwen3-8B", 256).replace(kv_heads=2)  # repeated from 4 devices on
    assert parallel_sizes(cfg) == [1, 2, 4, 8, 16]
    assert parallel_sizes(cfg.replace(heads=12, kv_heads=3)) == [1]  # 2 and 4 split no 3 heads


@pytest.mark.parametrize(
    ("width", "stored"),
    [(1792, "in it"), (1552, "as F16"), (1616, "as F16"), (1600, "in a larger type, of blocks of")],
)
def test_k_quant_of_an_ffn_width(width, stored):
    assert k_quant(width).startswith(stored)


def test_serving_lines_read_what_was_written(tmp_path):
    assert serving_lines(tmp_path) == []
    fields = config_fields(widened("Qwen3-8B", 256), "bfloat16")
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert serving_lines(tmp_path) == [
        "Served by vLLM and SGLang on 1, 2, 4, 8 or 16 devices (tensor parallel); in FP8 blocks on "
        "1 or 2 devices, with GPTQ or AWQ (Marlin) on 1 or 2 devices"
    ]
