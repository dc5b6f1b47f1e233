import json

import jax.numpy as jnp
import pytest
import tokenizers
import transformers

from sleep_jax.interop.tokenizer import Tokenizer, read_tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
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
TALK = [
    {"role": "system", "content": "Be brief & <kind>."},
    {"role": "user", "content": "What did the night keep in 2024?"},
    {"role": "assistant", "content": "The day, Zürich."},
]


def ours(bpe, template=CHATML, **kwargs):
    specials = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    return Tokenizer(bpe, special_tokens=specials, template=template, **kwargs)


def peer(bpe, template=CHATML):
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=template,
    )


def test_text_survives_the_round_trip_and_specials_do_not(bpe):
    tokenizer = ours(bpe)
    text = "A day, 2024 nights; Zürich: 夜"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    ids = [1, *tokenizer.encode("day"), 2]
    assert tokenizer.decode(jnp.array(ids)) == "day"
    marked = "<|im_start|>day<|im_end|>"
    assert tokenizer.decode(tokenizer.encode(marked)) == marked
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""


def test_encode_ignores_the_backends_truncation_and_padding(bpe):
    long = "the night keeps what the day has learnt"
    want = bpe.encode(long).ids
    bpe.enable_truncation(3)
    bpe.enable_padding(length=50)
    assert ours(bpe).encode(long) == want


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_chats_render_as_in_transformers(bpe, name, prompt):
    template = TEMPLATES[name]
    option = {"enable_thinking": False}
    want = peer(bpe, template).apply_chat_template(
        TALK, tokenize=False, add_generation_prompt=prompt, **option
    )
    tokenizer = ours(bpe, template)
    assert tokenizer.chat_text(TALK, add_generation_prompt=prompt, **option) == want
    ids = peer(bpe, template)(want, add_special_tokens=False)["input_ids"]
    assert tokenizer.chat(TALK, add_generation_prompt=prompt, **option) == ids


def test_no_template(bpe):
    with pytest.raises(ValueError, match="no chat template"):
        ours(bpe, None).chat(TALK)


def test_ends_and_pad(bpe):
    tokenizer = ours(bpe, eos_ids=[7, 2])
    # The tokenizer's own end first, then the model's list, then the known end tokens it has.
    assert tokenizer.eos_ids == (2, 7, 0)
    assert (tokenizer.pad_id, tokenizer.bos_id) == (2, 1)
    assert tokenizer.vocab_size == bpe.get_vocab_size() == 290
    assert Tokenizer(bpe, eos_ids=[9]).pad_id == 9
    assert Tokenizer(bpe, eos_ids=[9]).bos_id is None


def test_a_tokenizer_that_never_ends_is_refused():
    with pytest.raises(ValueError, match="no end-of-turn token"):
        Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()))


def test_folder_written_by_transformers(bpe, tmp_path):
    peer(bpe).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 5], "pad_token_id": 0}')
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.eos_ids == (2, 5, 0)
    assert tokenizer.pad_id == 2  # the tokenizer's own pad comes before generation_config's
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.chat_text(TALK) == again.apply_chat_template(
        TALK, tokenize=False, add_generation_prompt=True
    )
    text = "2024 nights in Zürich"
    assert tokenizer.encode(text) == again.encode(text, add_special_tokens=False)


def test_folder_with_old_style_files(bpe, tmp_path):
    bpe.save(str(tmp_path / "tokenizer.json"))
    config = {
        "eos_token": {"content": "<|im_end|>", "special": True},
        "bos_token": None,
        "chat_template": [
            {"name": "tool_use", "template": "TOOLS"},
            {"name": "default", "template": "{{ eos_token }}{{ bos_token }}" + CHATML},
        ],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text('{"eos_token_id": 5, "pad_token_id": 4}')
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.chat_text(TALK).startswith("<|im_end|><|im_start|>system\n")
    assert (tokenizer.eos_ids, tokenizer.pad_id, tokenizer.bos_id) == ((2, 5, 0), 4, None)
    (tmp_path / "chat_template.jinja").write_text("file wins" + CHATML)
    assert read_tokenizer(tmp_path).chat_text(TALK).startswith("file wins")


def test_folder_errors(bpe, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot parse .*tokenizer\.json"):
        read_tokenizer(tmp_path)
    bpe.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot parse .*tokenizer_config\.json"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json holds \[\]; it must be an object"),
        ("tokenizer_config.json", '{"eos_token": 3}', "eos_token=3; give a string"),
        ("tokenizer_config.json", '{"eos_token": {"content": 3}}', "eos_token.content=3"),
        (
            "tokenizer_config.json",
            '{"eos_token": "<end>"}',
            r"'<end>'; give a token that tokenizer",
        ),
        ("tokenizer_config.json", '{"chat_template": 3}', "chat_template=3"),
        (
            "tokenizer_config.json",
            '{"chat_template": [3]}',
            r"chat_template\[0\]=3; give an object",
        ),
        ("tokenizer_config.json", '{"chat_template": "{% for %}"}', "Expected an expression"),
        (
            "tokenizer_config.json",
            '{"chat_template": "{{ 1 / 0 }}"}',
            "cannot write a chat of user: ZeroDiv",
        ),
        (
            "generation_config.json",
            '{"eos_token_id": "2"}',
            "eos_token_id='2'; give a whole number",
        ),
        ("generation_config.json", '{"eos_token_id": [2, -1]}', "eos_token_id=-1"),
        ("config.json", '{"pad_token_id": 1.5}', "pad_token_id=1.5"),
    ],
)
def test_files_of_a_folder_are_held_to_their_types(bpe, tmp_path, name, content, message):
    peer(bpe).save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_tokenizer(tmp_path)
    assert str(tmp_path) in str(error.value) and str(error.value).count("\n") == 0


def test_pad_of_minus_one_is_none(bpe, tmp_path):
    bpe.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"eos_token_id": 5, "pad_token_id": -1}')
    assert read_tokenizer(tmp_path).pad_id == 5
