import jax.numpy as jnp
import pytest
import tokenizers
from chatml import CHATML, TALK, peer
from families import qwen3

from sleep_jax.interop.tokenizer import Tokenizer

TEMPLATES = {
    "chatml": CHATML,
    "bos, trimmed blocks, no tools": """{{- bos_token }}
{%- if tools is not none %}
TOOLS {{ tools | tojson }}
{%- endif %}
{% for message in messages %}
    {% if message.role == 'system' %}
        {% continue %}
    {% endif %}
{{ message.role | tojson }}: {{ message.content | trim }}<|im_end|>
{% endfor %}
""",
    "generation block": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "option": (
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
        "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    ),
}


def ours(bpe, template=CHATML, **kwargs):
    specials = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    return Tokenizer(bpe, special_tokens=specials, template=template, **kwargs)


def test_decode_inverts_encode_and_drops_specials(bpe):
    tokenizer = ours(bpe)
    text = "A day, 2024 nights; Zürich: 夜"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    ids = [1, *tokenizer.encode("day"), 2]
    assert tokenizer.decode(jnp.array(ids)) == "day"
    marked = "<|im_start|>day<|im_end|>"
    assert tokenizer.decode(tokenizer.encode(marked)) == marked
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""


def test_encode_ignores_backend_truncation_and_padding(bpe):
    long = "the night keeps what the day has learnt"
    want = bpe.encode(long).ids
    bpe.enable_truncation(3)
    bpe.enable_padding(length=50)
    assert ours(bpe).encode(long) == want


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_chat_text_equals_transformers(bpe, name, prompt):
    template = TEMPLATES[name]
    option = {"enable_thinking": False}
    want = peer(bpe, template).apply_chat_template(
        TALK, tokenize=False, add_generation_prompt=prompt, **option
    )
    tokenizer = ours(bpe, template)
    assert tokenizer.chat_text(TALK, add_generation_prompt=prompt, **option) == want
    ids = peer(bpe, template)(want, add_special_tokens=False)["input_ids"]
    assert tokenizer.chat(TALK, add_generation_prompt=prompt, **option) == ids


def test_missing_template_raises(bpe):
    with pytest.raises(ValueError, match="no chat template"):
        ours(bpe, None).chat(TALK)


def test_eos_and_pad_ids(bpe):
    tokenizer = ours(bpe, eos_ids=[7, 2])
    # The tokenizer's end first, then the ids of the model's files, then known end tokens.
    assert tokenizer.eos_ids == (2, 7, 0)
    assert (tokenizer.pad_id, tokenizer.bos_id) == (2, 1)
    assert tokenizer.vocab_size == bpe.get_vocab_size() == 290
    assert Tokenizer(bpe, eos_ids=[9]).pad_id == 9
    assert Tokenizer(bpe, eos_ids=[9]).bos_id is None


def test_tokenizer_without_end_token_raises():
    with pytest.raises(ValueError, match="no end-of-turn token"):
        Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()))


def test_line_end_ids_hold_line_breaks(bpe):
    tokenizer = qwen3()
    tokens = [tokenizer.backend.id_to_token(i) for i in tokenizer.line_end_ids]
    assert sorted(tokens) == ["?ĊĊ", "Ċ", "ĊĊ"]
    assert ours(bpe).line_end_ids == tuple(dict.fromkeys(ours(bpe).encode("\n")))
