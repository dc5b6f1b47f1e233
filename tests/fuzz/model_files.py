"""Small files of a model: configs, tokenizers, templates, safetensors and GGUF."""

import copy
import functools
import json
import math
import pathlib
import random
import struct

import gguf_files as g
import numpy as np
import tokenizers
from formats import Format
from mutations import among, change, change_json, dumps, spoil
from safetensors.numpy import save
from tokenizers import decoders, models, pre_tokenizers, trainers

from sleep_jax.interop import gguf, gguf_tokenizer, huggingface
from sleep_jax.interop.known_models import CONFIGS
from sleep_jax.interop.load import check_token_ids
from sleep_jax.interop.safetensors import SafetensorsFolder
from sleep_jax.interop.tensors import leaves, read_params
from sleep_jax.interop.tokenizer_files import read_tokenizer
from sleep_jax.models.decoder_config import DecoderConfig

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = "A day, and 2 nights: Zürich 夜 🌙 <|im_start|>\n"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SHORT = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"  # compiled at once
LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" + date_string + system_message }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|im_start|>' + message['role'] + '\\n\\n'+ message['content'] | trim + '<|im_end|>' }}
    {%- elif message.tool_calls|length != 1 %}{{- raise_exception("one call at once") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n\\n' }}{%- endif %}
"""
QWEN = """{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == "user" and message.content is string %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- if message.role == "assistant" and loop.last %}
        {%- set content = '<think>\\n\\n</think>\\n\\n' + content %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
PIECES = [
    x.encode()
    for x in (
        "{% for m in messages %}", "{% for a in range(100000) %}", "{% endfor %}", "{% if x %}",
        "{% endif %}", "{% else %}", "{{ messages }}", "{{ 'a' * 1000000000000 }}", "{{", "}}",
        "{%", "{{ 10 ** 10 ** 10 }}", "{{ 1 / 0 }}", "{{ messages[99].content }}", "{{ x.y.z }}",
        "%}", "{{ ''.__class__.__mro__ }}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}", "{% set messages = 3 %}",
        "{{ raise_exception('no') }}", "{{ messages | tojson(indent=9) }}",
        "{{ '%1000000000d' % 1 }}", "{{ 'x'.ljust(1000000000) }}",
        "{{ 'ab'.replace('', 'x' * 99) }}", "{{ range(99999) | list | length }}",
        "{{ 'a'.join(range(9)) }}", "{# ", " #}", "{% generation %}", "{% include 'x' %}",
        "{% import 'x' as x %}", "{% block a %}", "{% extends 'x' %}", "\0", "'", "message",
        "content", "role", "messages", "add_generation_prompt", "[", "]", "|", "+", "-",
        "{{ strftime_now('%Y' * 9999) }}", "{% set x = namespace(a=1) %}", "{{ caller() }}",
        "loop.index0", "{{ '{:>1000000000}'.format(1) }}", "{{ messages | batch(0) | list }}",
        "{% break %}", "{{ self }}", "{{ (messages * 100000) | string | length }}",
        "{{ cycler().next() }}", "{{ lipsum(n=100000) }}",
        "{{ messages | map(attribute='x') | list }}", "{% filter upper %}",
        "{{ loop(messages) }}", "{{ 'x' | center(1000000000) }}",
        "{{ 'x' | indent(1000000000) }}", "{{ 'a' | urlize }}",
    )
]  # fmt: skip

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 300,
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 4, "rms_norm_eps": 1e-5, "rope_theta": 1e5,
    "tie_word_embeddings": True, "max_position_embeddings": 64, "attention_bias": False,
    "mlp_bias": False, "hidden_act": "silu", "rope_scaling": None, "torch_dtype": "bfloat16",
    "eos_token_id": 2, "pad_token_id": None, "use_sliding_window": False, "max_window_layers": 2,
}  # fmt: skip
CFG = huggingface.decoder_config(CONFIG)


def _json(value) -> bytes:
    return json.dumps(value).encode()


@functools.cache
def _backend() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the night keeps what the day has learnt, 2024 nights"], trainer)
    return backend


def _tokenizer_bases() -> list[bytes]:
    whole = json.loads(_backend().to_str())
    template = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": SPECIALS[1], "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {SPECIALS[1]: {"id": SPECIALS[1], "ids": [1], "tokens": [SPECIALS[1]]}},
    }
    pattern = {
        "type": "Split",
        "pattern": {"Regex": r"\p{N}{1,3}|\s+(?!\S)|\s+"},
        "behavior": "Isolated",
        "invert": False,
    }
    other = copy.deepcopy(whole) | {
        "normalizer": {"type": "NFC"},
        "post_processor": template,
        "truncation": {
            "direction": "Right",
            "max_length": 8,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        "padding": {
            "strategy": {"Fixed": 9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": SPECIALS[0],
        },
    }
    other["pre_tokenizer"]["pretokenizers"].insert(0, pattern)
    return [_json(whole), _json(other)]


def _read_config(folder: pathlib.Path) -> None:
    cfg = huggingface.decoder_config(huggingface.read_config(folder))
    _check_shape(cfg)


def _check_shape(cfg: DecoderConfig) -> None:
    numbers = [cfg.vocab, cfg.width, cfg.hidden, cfg.layers, cfg.heads, cfg.kv_heads, cfg.head_dim]
    numbers += [cfg.rope_theta, cfg.norm_eps, cfg.max_position]
    if scaling := cfg.rope_scaling:
        numbers += [scaling.factor, scaling.low_freq_factor, scaling.original_max_position]
        numbers.append(scaling.high_freq_factor - scaling.low_freq_factor)
    assert all(type(x) in (int, float) and 0 < x < math.inf for x in numbers), cfg


def _read_tokenizer(folder: pathlib.Path) -> None:
    tokenizer = read_tokenizer(folder)
    tokenizer.decode(tokenizer.encode(TEXT))
    if tokenizer._template is not None:
        tokenizer.chat([{"role": "user", "content": TEXT}])
    check_token_ids(tokenizer, CFG, folder)


def _tensors(cfg: DecoderConfig, naming: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    named = [(name, leaf.shape) for leaf in leaves(cfg) for name in getattr(leaf, naming)]
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in named}


SMALL = CFG.replace(vocab=8, width=4, hidden=4, head_dim=2, layers=1)


def _read_safetensors(folder: pathlib.Path) -> None:
    params = read_params(SMALL, SafetensorsFolder(folder), np.float32)
    assert np.isfinite(params["embed"]["embedding"]).all()


def _change_safetensors(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.35:
        return spoil(rng, data)
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header = change(rng, header[rng.choice(list(header))] and header)
    text = dumps(rng, header)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _safetensors() -> bytes:
    return save(_tensors(SMALL, "huggingface"), metadata={"format": "pt"})


def _sharded() -> tuple[bytes, dict[str, bytes]]:
    tensors = list(_tensors(SMALL, "huggingface").items())
    parts = {"model-1.safetensors": dict(tensors[:5]), "model-2.safetensors": dict(tensors[5:])}
    where = {name: file for file, part in parts.items() for name in part}
    index = {"metadata": {"total_size": 999}, "weight_map": where}
    return _json(index), {file: save(part) for file, part in parts.items()}


GGUF_CFG = CFG.replace(width=8, hidden=8, layers=1)


@functools.cache
def _gguf_parts() -> tuple[list, list]:
    vocab = _backend().get_vocab()
    tokens = sorted(vocab, key=vocab.get)
    merges = [" ".join(x) for x in json.loads(_backend().to_str())["model"]["merges"]]
    cfg = GGUF_CFG.replace(vocab=len(tokens))
    keys = [
        ["general.architecture", g.STRING, "llama"],
        ["general.name", g.STRING, "tiny"],
        ["general.alignment", g.U32, 32],
        ["llama.block_count", g.U32, cfg.layers],
        ["llama.context_length", g.U32, cfg.max_position],
        ["llama.embedding_length", g.U32, cfg.width],
        ["llama.feed_forward_length", g.U32, cfg.hidden],
        ["llama.attention.head_count", g.U32, cfg.heads],
        ["llama.attention.head_count_kv", g.U32, cfg.kv_heads],
        ["llama.rope.dimension_count", g.U32, cfg.head_dim],
        ["llama.rope.freq_base", g.F32, cfg.rope_theta],
        ["llama.attention.layer_norm_rms_epsilon", g.F32, cfg.norm_eps],
        ["llama.vocab_size", g.U32, cfg.vocab],
        ["tokenizer.ggml.model", g.STRING, "gpt2"],
        ["tokenizer.ggml.pre", g.STRING, "smollm"],
        ["tokenizer.ggml.tokens", [g.ARRAY, g.STRING], tokens],
        ["tokenizer.ggml.token_type", [g.ARRAY, 5], [3] * 3 + [1] * (len(tokens) - 3)],
        ["tokenizer.ggml.merges", [g.ARRAY, g.STRING], merges],
        ["tokenizer.ggml.bos_token_id", g.U32, 1],
        ["tokenizer.ggml.eos_token_id", g.U32, 2],
        ["tokenizer.ggml.padding_token_id", g.U32, 0],
        ["tokenizer.chat_template", g.STRING, SHORT],
    ]
    tensors = [[n, list(x.shape[::-1]), 0, x.tobytes()] for n, x in _tensors(cfg, "gguf").items()]
    tensors.append(["rope_freqs.weight", [cfg.head_dim // 2], 0, np.ones(2, np.float32).tobytes()])
    return keys, tensors


def _change_gguf(rng: random.Random, data: bytes) -> bytes:
    keys, tensors = _gguf_parts()
    if rng.random() < 0.6:
        for _ in range(rng.choice((1, 1, 2))):
            keys = g.change_keys(rng, keys)
        tensors = [list(x) for x in tensors]
        if rng.random() < 0.3:
            part = rng.choice(tensors)
            part[1] = [rng.choice((0, 1, 4, 8, 2**40, 2**63)) for _ in range(rng.randrange(5))]
        if rng.random() < 0.2:
            rng.choice(tensors)[2] = rng.choice((1, 2, 3, 8, 10, 24, 26, 28, 30, 99))
        if rng.random() < 0.1:
            part = rng.choice(tensors)
            part[3] = np.float32(rng.choice((np.nan, np.inf))).tobytes() + part[3][4:]
        return g.encode(keys, tensors)
    header = len(g.encode(keys, [[*x[:3], b""] for x in tensors]))
    return g.change_header(rng, data, header if rng.random() < 0.9 else len(data))


def _read_gguf(folder: pathlib.Path) -> None:
    file = gguf.GGUFFile(folder / "tiny.gguf")
    cfg = gguf.decoder_config(file)
    _check_shape(cfg)
    tokenizer = gguf_tokenizer.read_tokenizer(file)
    check_token_ids(tokenizer, cfg, file.path)
    tokenizer.decode(tokenizer.encode(TEXT))
    read_params(cfg, file, np.float32)


TOKENIZER_CONFIG = {
    "bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>", "special": True},
    "pad_token": "<|im_end|>", "unk_token": None, "model_max_length": 8192,
    "added_tokens_decoder": {"0": {"content": "<|endoftext|>", "special": True}},
}  # fmt: skip
ONE = TOKENIZER_CONFIG | {"chat_template": SHORT}
NAMED = TOKENIZER_CONFIG | {
    "chat_template": [
        {"name": "tool_use", "template": "x"},
        {"name": "default", "template": SHORT},
    ]
}
GENERATION = {
    "bos_token_id": 1,
    "eos_token_id": [2, 0],
    "pad_token_id": 2,
    "temperature": 0.6,
    "do_sample": True,
}
_FOLDER = {
    "tokenizer.json": _tokenizer_bases()[0],
    "tokenizer_config.json": _json(TOKENIZER_CONFIG),
    "generation_config.json": _json(GENERATION),
}
_WITHOUT_SHARDS = _sharded()

FORMATS = (
    Format(
        "config.json",
        "config.json",
        [_json(CONFIG), *(_json(CONFIG | x) for x in CONFIGS.values())],
        change_json,
        _read_config,
    ),
    Format(
        "tokenizer.json",
        "tokenizer.json",
        _tokenizer_bases(),
        change_json,
        _read_tokenizer,
        _FOLDER,
    ),
    Format(
        "tokenizer_config.json",
        "tokenizer_config.json",
        [_json(ONE), _json(NAMED)],
        change_json,
        _read_tokenizer,
        _FOLDER,
    ),
    Format(
        "generation_config.json",
        "generation_config.json",
        [_json(GENERATION), _json(GENERATION | {"eos_token_id": 2})],
        change_json,
        _read_tokenizer,
        _FOLDER,
    ),
    Format(
        "chat_template.jinja",
        "chat_template.jinja",
        [x.encode() for x in (CHATML, LLAMA, QWEN, SHORT, SHORT, SHORT)],
        among(PIECES),
        _read_tokenizer,
        _FOLDER,
    ),
    Format(
        "safetensors", "model.safetensors", [_safetensors()], _change_safetensors, _read_safetensors
    ),
    Format(
        "safetensors index",
        "model.safetensors.index.json",
        [_WITHOUT_SHARDS[0]],
        change_json,
        _read_safetensors,
        _WITHOUT_SHARDS[1],
    ),
    Format("gguf", "tiny.gguf", [g.encode(*_gguf_parts())], _change_gguf, _read_gguf),
)
