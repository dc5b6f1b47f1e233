"""Small random models in the published formats of the supported families: config fields, special
tokens and their roles, chat templates and files, with small sizes and token ids.

The templates are rewritten; they render chats without tools as the published ones do.
"""

import dataclasses
import json
import pathlib
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from sleep_jax.interop.tokenizer import Tokenizer

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def _with_system(words: str) -> str:
    """ChatML with a default system turn where none is given."""
    return (
        "{%- if messages[0].role != 'system' %}\n"
        f"    {{{{- '<|im_start|>system\\n{words}<|im_end|>\\n' }}}}\n"
        "{%- endif %}\n" + CHATML
    )


# A thought before the last reply, empty where none is given; earlier thoughts are dropped.
_QWEN3_TURNS = """\
{%- set ns = namespace(last_query=messages|length - 1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set ns.last_query = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role != 'assistant' %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- else %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1] %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last_query %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
"""
QWEN3 = (
    _QWEN3_TURNS
    + """\
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
)
ALWAYS_THINKING = _QWEN3_TURNS + "    {{- '<think>\\n' }}\n{%- endif %}\n"

LLAMA3 = """\
{%- for message in messages %}
    {%- set turn = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' %}
    {%- set turn = turn + message['content'] | trim + '<|eot_id|>' %}
    {%- if loop.first %}{% set turn = bos_token + turn %}{% endif %}
    {{- turn }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""


def _dated(today: str) -> str:
    """The template of Llama 3.1 and 3.2, whose system turn has the date."""
    return (
        "{{- bos_token }}\n"
        "{%- if not date_string is defined %}{% set date_string = " + today + " %}{% endif %}\n"
        "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}\n"
        "{{- 'Cutting Knowledge Date: December 2023\\n' }}\n"
        "{{- 'Today Date: ' + date_string + '\\n\\n' }}\n"
        "{%- if messages[0].role == 'system' %}\n"
        "    {{- messages[0].content | trim }}{% set messages = messages[1:] %}\n"
        "{%- endif %}\n"
        "{{- '<|eot_id|>' }}\n" + LLAMA3.replace("bos_token + turn", "turn")
    )


# Llama 3's from id 128000 on; 3.1 has <|eom_id|> in place of the second reserved one.
_LLAMA_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|reserved_special_token_4|>",
    "<|eot_id|>",
)
_CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN3_WORDS = ("<tool_call>", "</tool_call>", "<think>", "</think>")  # not marked as special
_SCALED = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "use_cache": True,
    "torch_dtype": "bfloat16",
}
_LLAMA = _SIZES | {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
}
_QWEN = _SIZES | {
    "max_window_layers": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "sliding_window": None,
    "use_sliding_window": False,
}
_QWEN3 = _QWEN | {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "head_dim": 32,  # not the width over the heads
    "max_position_embeddings": 40960,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}


@dataclasses.dataclass(frozen=True)
class Family:
    """The contents of a family's files.

    Attributes:
      template: the chat template.
      config: config.json without token ids, which are added.
      specials: special tokens, in the order of their ids.
      words: added tokens that are not marked as special.
      roles: tokens by role, of tokenizer_config.json.
      ends: the tokens of generation_config.json's `eos_token_id`.
      turn_end: the token with which the template ends a reply.
      digits: pattern of digits that are kept together.
      starts: texts begin with `bos_token`.
    """

    template: str
    config: dict[str, Any]
    specials: tuple[str, ...]
    roles: dict[str, str | None]
    ends: tuple[str, ...]
    turn_end: str = "<|im_end|>"
    words: tuple[str, ...] = ()
    digits: str = r"\p{N}"
    starts: bool = False


def _llama(template: str, eos: str, ends: tuple[str, ...], **config) -> Family:
    return Family(
        template,
        _LLAMA | config,
        tuple({"<|reserved_special_token_4|>": ends[1]}.get(t, t) for t in _LLAMA_TOKENS)
        if "<|eom_id|>" in ends
        else _LLAMA_TOKENS,
        {"bos_token": "<|begin_of_text|>", "eos_token": eos},
        ends,
        turn_end="<|eot_id|>",
        digits=r"\p{N}{1,3}",
        starts=True,
    )


def _qwen(template: str, config: dict[str, Any], *words: str, eos: str = "<|im_end|>") -> Family:
    roles = {"bos_token": None, "eos_token": eos, "pad_token": "<|endoftext|>"}
    ends = ("<|im_end|>", "<|endoftext|>") if eos == "<|im_end|>" else ("<|endoftext|>",)
    return Family(template, config, _CHATML_TOKENS, roles, ends, words=words)


_LLAMA32_ENDS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
FAMILIES = {
    "Qwen3-8B": _qwen(QWEN3, _QWEN3, *_QWEN3_WORDS),
    "Qwen3-1.7B": _qwen(QWEN3, _QWEN3 | {"tie_word_embeddings": True}, *_QWEN3_WORDS),
    "Meta-Llama-3-8B-Instruct": _llama(
        LLAMA3, "<|end_of_text|>", ("<|end_of_text|>", "<|eot_id|>")
    ),
    "Llama-3.2-1B-Instruct": _llama(
        _dated("strftime_now('%d %b %Y')"),
        "<|eot_id|>",
        _LLAMA32_ENDS,
        head_dim=16,
        max_position_embeddings=131072,
        rope_scaling=_SCALED,
        tie_word_embeddings=True,
    ),
    "Llama-3.1-8B-Instruct": _llama(
        _dated("'26 Jul 2024'"),
        "<|eot_id|>",
        _LLAMA32_ENDS,
        max_position_embeddings=131072,
        rope_scaling=_SCALED | {"factor": 8.0},
    ),
    "Qwen2.5-7B-Instruct": _qwen(
        _with_system("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
        {k: v for k, v in _QWEN.items() if k != "attention_bias"}
        | {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "max_position_embeddings": 32768,
            "tie_word_embeddings": False,
        },
    ),
    "SmolLM2": dataclasses.replace(
        _qwen(
            _with_system("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
            _LLAMA | {"rope_theta": 100000, "tie_word_embeddings": True},
        ),
        roles={"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
        ends=("<|im_end|>",),
    ),
    # A base model whose texts end with <|endoftext|>, with a ChatML template added.
    "ChatML on a base": _qwen(CHATML, _LLAMA, eos="<|endoftext|>"),
}


def backend_of(family: Family) -> tokenizers.Tokenizer:
    """A byte-level tokenizer with the family's pre-tokenizer and added tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # A few merges, so that neighbouring characters matter.
    merges = ("Ċ Ċ", "? ĊĊ", "t h", "th e", "Ġ the", "i n", "Ġ a")
    merges = [tuple(pair.split()) for pair in merges]
    vocab = {token: i for i, token in enumerate([*alphabet, *("".join(m) for m in merges)])}
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges))
    if "Qwen" in family.config["architectures"][0]:
        backend.normalizer = normalizers.NFC()
    words = Regex(_WORDS.format(digits=family.digits))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in family.specials]
    )
    backend.add_tokens([AddedToken(t, normalized=False) for t in family.words])
    steps = [processors.ByteLevel(trim_offsets=False)]
    if family.starts:
        bos = family.roles["bos_token"]
        steps.append(
            processors.TemplateProcessing(
                single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
            )
        )
    backend.post_processor = processors.Sequence(steps)
    return backend


def write_family(name: str, folder: pathlib.Path, **changes) -> pathlib.Path:
    """Writes the four files and the weights of a model of a family to `folder`; `changes` are of
    its config.json.
    """
    family = FAMILIES[name]
    backend = backend_of(family)
    folder.mkdir(parents=True, exist_ok=True)
    ends = [backend.token_to_id(token) for token in family.ends]
    config = family.config | {"vocab_size": backend.get_vocab_size() + 14}  # padded, as is usual
    config |= {"eos_token_id": backend.token_to_id(family.roles["eos_token"])} | changes
    torch.manual_seed(0)
    peer = transformers.AutoConfig.for_model(**config)
    model = transformers.AutoModelForCausalLM.from_config(peer, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    backend.save(str(folder / "tokenizer.json"))
    added = backend.get_added_tokens_decoder()
    described = {
        str(i): {
            "content": token.content,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token.special,
        }
        for i, token in added.items()
    }
    files = {
        "config.json": config,
        "generation_config.json": {"do_sample": True, "eos_token_id": ends},
        "tokenizer_config.json": {
            "added_tokens_decoder": described,
            "chat_template": family.template,
            "clean_up_tokenization_spaces": False,
            "model_max_length": config["max_position_embeddings"],
            "tokenizer_class": "PreTrainedTokenizerFast",
            **family.roles,
        },
    }
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content, indent=2))
    return folder


def qwen3(template: str = QWEN3, **options) -> Tokenizer:
    """Qwen 3's tokenizer."""
    backend, specials = backend_of(FAMILIES["Qwen3-8B"]), {"eos_token": "<|im_end|>"}
    return Tokenizer(backend, special_tokens=specials, template=template, **options)


def written(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Token ids as a model would write the text: special tokens are recognised."""
    return tuple(tokenizer.backend.encode(text, add_special_tokens=False).ids)
