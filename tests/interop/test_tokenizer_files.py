"""Tokenizer files: as transformers reads them, and errors."""

import json

import pytest
import transformers
from chatml import CHATML, TALK, peer

from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.interop.tokenizer_files import read_tokenizer, write_tokenizer


def test_read_tokenizer_of_transformers_folder(bpe, tmp_path):
    peer(bpe).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 5], "pad_token_id": 0}')
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.eos_ids == (2, 5, 0)
    assert tokenizer.pad_id == 2  # the tokenizer's pad has precedence over generation_config's
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.chat_text(TALK) == again.apply_chat_template(
        TALK, tokenize=False, add_generation_prompt=True
    )
    text = "2024 nights in Zürich"
    assert tokenizer.encode(text) == again.encode(text, add_special_tokens=False)


def test_read_tokenizer_of_old_style_folder(bpe, tmp_path):
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


def test_write_tokenizer_is_read_as_the_same_here_and_by_transformers(bpe, tmp_path):
    roles = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}
    tokenizer = Tokenizer(bpe, special_tokens=roles, template=CHATML, pad_id=0)
    write_tokenizer(tokenizer, tmp_path, None, 512)
    again, peer_again = (
        read_tokenizer(tmp_path),
        transformers.AutoTokenizer.from_pretrained(tmp_path),
    )
    assert again.chat(TALK) == tokenizer.chat(TALK)
    chat = peer_again.apply_chat_template(TALK, add_generation_prompt=True, return_dict=True)
    assert chat["input_ids"] == tokenizer.chat(TALK)
    assert (again.eos_ids, again.pad_id) == (tokenizer.eos_ids, 0)
    generation = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert generation.eos_token_id == [*tokenizer.eos_ids]


def test_write_tokenizer_copies_the_files_of_a_folder(bpe, tmp_path):
    source, folder = tmp_path / "source", tmp_path / "copy"
    folder.mkdir()
    peer(bpe).save_pretrained(source)
    (source / "generation_config.json").write_text('{"eos_token_id": 5, "temperature": 0.6}')
    tokenizer = read_tokenizer(source)
    write_tokenizer(tokenizer, folder, source, 512)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (source / name).read_bytes()
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["temperature"] == 0.6
    assert generation["eos_token_id"] == [*tokenizer.eos_ids] == [2, 5, 0]
    assert read_tokenizer(folder).eos_ids == tokenizer.eos_ids


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
def test_fields_of_files_are_type_checked(bpe, tmp_path, name, content, message):
    peer(bpe).save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_tokenizer(tmp_path)
    assert str(tmp_path) in str(error.value) and str(error.value).count("\n") == 0


def test_pad_id_of_minus_one_is_ignored(bpe, tmp_path):
    bpe.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"eos_token_id": 5, "pad_token_id": -1}')
    assert read_tokenizer(tmp_path).pad_id == 5
