import json

import gguf
import pytest

from sleep_jax.interop.gguf import GGUFFile
from sleep_jax.interop.gguf_tokenizer import read_tokenizer

TEMPLATE = "{% for m in messages %}{{ bos_token }}{{ m.content }}{{ eos_token }}{% endfor %}"


def write(
    path,
    bpe,
    *,
    pre="smollm",
    model="gpt2",
    user_defined=(),
    kinds=None,
    merges=(),
    eos=2,
    starts=None,
):
    writer = gguf.GGUFWriter(path, "llama")
    state = json.loads(bpe.to_str())
    vocab = sorted(bpe.get_vocab(), key=bpe.get_vocab().get)
    all_kinds = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(vocab) - 3)
    vocab += user_defined
    all_kinds += [gguf.TokenType.USER_DEFINED] * len(user_defined)
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocab)
    writer.add_token_types(all_kinds if kinds is None else all_kinds[:kinds])
    writer.add_token_merges([*(" ".join(merge) for merge in state["model"]["merges"]), *merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(eos)
    writer.add_pad_token_id(0)
    if starts is not None:
        writer.add_add_bos_token(starts)
    writer.add_chat_template(TEMPLATE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GGUFFile(path)


def test_read_tokenizer_equals_the_original(bpe, tmp_path):
    tokenizer = read_tokenizer(write(tmp_path / "t.gguf", bpe))
    for text in (
        "the night keeps 2024 days",
        "Zürich!  a\n\n b\t夜",
        "<|im_start|>day<|im_end|>",
        "day's  12 345.",
    ):
        token_ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
        assert token_ids == bpe.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert (tokenizer.eos_ids, tokenizer.pad_id, tokenizer.bos_id) == ((2, 0), 0, 1)
    chat = tokenizer.chat_text([{"role": "user", "content": "night"}])
    assert chat == "<|im_start|>night<|im_end|>"


def test_user_defined_tokens_are_kept_whole(bpe, tmp_path):
    file = write(tmp_path / "t.gguf", bpe, user_defined=["<a tool>"])
    tokenizer = read_tokenizer(file)
    ids = tokenizer.encode("x<a tool>x")
    assert ids[1:-1] == [290]
    assert tokenizer.decode(ids) == "x<a tool>x"


@pytest.mark.parametrize(
    "pre, text, words",
    [
        # Digits: SmolLM2 and Qwen 2 one by one, Llama 3 by up to three.
        ("smollm", "in 2024", ["in", "Ġ", "2", "0", "2", "4"]),
        ("qwen2", "in 2024", ["in", "Ġ", "2", "0", "2", "4"]),
        ("llama-bpe", "in 2024", ["in", "Ġ", "202", "4"]),
        # Contractions in capitals, and punctuation before a word.
        ("smollm", "I'LL (go)", ["I", "'", "LL", "Ġ(", "go", ")"]),
        ("qwen2", "I'LL (go)", ["I", "'LL", "Ġ(", "go", ")"]),
        ("llama-bpe", "I'LL (go)", ["I", "'LL", "Ġ(", "go", ")"]),
        ("llama-bpe", "a\n\nb", ["a", "ĊĊ", "b"]),
    ],
)
def test_pre_tokenizers_split_like_their_models(bpe, tmp_path, pre, text, words):
    backend = read_tokenizer(write(tmp_path / "t.gguf", bpe, pre=pre)).backend
    assert [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)] == words


def test_qwen_normalizes_to_nfc(bpe, tmp_path):
    decomposed = "Zu\u0308rich"
    tokenizer = read_tokenizer(write(tmp_path / "t.gguf", bpe, pre="qwen2"))
    assert tokenizer.encode(decomposed) == tokenizer.encode("Zürich")


@pytest.mark.parametrize("changes", [{"model": "llama"}, {"pre": "tekken"}])
def test_unsupported_tokenizers_raise(bpe, tmp_path, changes):
    with pytest.raises(ValueError, match=r"supported: 'gpt2' .* smollm, llama-bpe, qwen2"):
        read_tokenizer(write(tmp_path / "t.gguf", bpe, **changes))


@pytest.mark.parametrize(
    ("pre", "starts", "want"),
    [
        ("llama-bpe", None, (1,)),  # the default of llama.cpp
        ("llama-bpe", False, ()),
        ("qwen2", None, ()),
        ("smollm", True, (1,)),
    ],
)
def test_text_start_follows_the_file(bpe, tmp_path, pre, starts, want):
    tokenizer = read_tokenizer(write(tmp_path / "t.gguf", bpe, pre=pre, starts=starts))
    assert tokenizer.text_start == want


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"merges": ["nobody knows"]}, r"merges\[\d+\]='nobody knows'; give two tokens"),
        ({"merges": ["alone"]}, r"merges\[\d+\]='alone'"),
        ({"kinds": 2}, r"290 tokenizer.ggml.tokens and 2 tokenizer.ggml.token_type, but each"),
        ({"user_defined": ["a"]}, "tokenizer.ggml.tokens has 'a' twice"),
        ({"eos": 290}, "eos_token_id=290; give a whole number from 0 to 289"),
    ],
)
def test_inconsistent_parts_raise(bpe, tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"t\.gguf.*{message}") as error:
        read_tokenizer(write(tmp_path / "t.gguf", bpe, **changes))
    assert str(error.value).count("\n") == 0
