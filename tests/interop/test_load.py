import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers

from sleep_jax.interop.chat_template import Piece
from sleep_jax.interop.load import load_model, local_tokenizer
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig

SMOL_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@pytest.fixture
def folder(bpe, tmp_path):
    config = transformers.LlamaConfig(
        vocab_size=304,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        chat_template="{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
    ).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.bfloat16, np.dtype(ml_dtypes.bfloat16)])
def test_load_model_of_a_folder(folder, dtype):
    memory = MemoryConfig((LevelConfig(),))
    cfg, params, tokenizer = load_model(str(folder), dtype=dtype, memory=memory, remat="none")
    assert (cfg.vocab, cfg.memory, cfg.remat) == (304, memory, "none")
    assert cfg.dtype is jnp.bfloat16
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(params))
    assert params["layers"]["mlp"]["gate"]["kernel"].dtype == jnp.bfloat16
    assert params["layers"]["mlp_norm"]["scale"].dtype == np.float32
    assert tokenizer.eos_ids[0] == 2
    # The model's vocabulary may be padded beyond the tokenizer's.
    assert tokenizer.vocab_size == 290


def test_token_ids_beyond_the_embedding_raise(folder, bpe):
    bpe.add_tokens([f"<more {i}>" for i in range(14)])  # ids 290 to 303 fit 304 rows
    bpe.save(str(folder / "tokenizer.json"))
    load_model(str(folder), dtype=jnp.float32)
    bpe.add_tokens(["<one more>"])
    bpe.save(str(folder / "tokenizer.json"))
    with pytest.raises(
        ValueError, match=r"305 tokens with ids up to 304 \('<one more>'\), .* 304 row"
    ):
        load_model(str(folder), dtype=jnp.float32)


def test_eos_id_beyond_the_embedding_raises(folder):
    for name, ids in (("generation_config.json", "304"), ("config.json", "[2, 305]")):
        (folder / "generation_config.json").write_text("{}")
        file = folder / name
        text = file.read_text()
        fields = json.loads(text) | {"eos_token_id": json.loads(ids)}
        file.write_text(json.dumps(fields))
        with pytest.raises(
            ValueError, match=rf"^{file}: eos_token_id=30[45] is beyond the 304 row"
        ):
            load_model(str(folder), dtype=jnp.float32)
        file.write_text(text)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": 400}))
    with pytest.raises(ValueError, match=r"config\.json: pad_token_id=400 is beyond the 304 rows"):
        load_model(str(folder), dtype=jnp.float32)


def test_load_model_checks_arguments(folder):
    with pytest.raises(ValueError, match="dtype='float16'; choose 'float32' or 'bfloat16'"):
        load_model(str(folder), dtype=jnp.float16)
    with pytest.raises(TypeError, match="depth"):
        load_model(str(folder), dtype=jnp.float32, depth=3)


@pytest.fixture(scope="module")
def smollm2():
    return load_model("SmolLM2-135M-Instruct", dtype=jnp.float32)


@pytest.mark.slow
def test_smollm2_has_its_shape(smollm2):
    cfg, params, tokenizer = smollm2
    assert (cfg.layers, cfg.width, cfg.hidden, cfg.vocab) == (30, 576, 1536, 49152)
    assert (cfg.heads, cfg.kv_heads, cfg.head_dim) == (9, 3, 64)
    assert (cfg.rope_theta, cfg.norm_eps, cfg.tie_embeddings) == (1e5, 1e-5, True)
    assert sum(x.size for x in jax.tree.leaves(params)) == 134_515_008
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
    assert (tokenizer.eos_ids, tokenizer.pad_id, tokenizer.vocab_size) == ((2, 0), 2, 49152)


@pytest.mark.slow
def test_smollm2_uses_its_template(smollm2):
    _, _, tokenizer = smollm2
    ask = {"role": "user", "content": "Hi"}
    turn = "<|im_start|>user\nHi<|im_end|>\n"
    opening = f"<|im_start|>system\n{SMOL_SYSTEM}<|im_end|>\n"
    assert tokenizer.chat_text([ask]) == opening + turn + "<|im_start|>assistant\n"
    assert tokenizer.chat_text([ask], add_generation_prompt=False) == opening + turn
    messages = [{"role": "system", "content": "S"}, ask]
    rendered = tokenizer.chat_text(messages, add_generation_prompt=False)
    assert rendered == "<|im_start|>system\nS<|im_end|>\n" + turn
    assert tokenizer.chat([ask])[:3] == [1, *tokenizer.encode("system\n")]


@pytest.mark.slow
def test_smollm2_tokens(smollm2):
    _, _, tokenizer = smollm2
    assert [tokenizer.backend.id_to_token(i) for i in tokenizer.encode(" in 2024")] == [
        *("Ġin", "Ġ", "2", "0", "2", "4")
    ]
    for text in ("The capital of France is Paris.", "def f(x):\n    return x\n", "Zürich 夜 🌙"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.slow
def test_smollm2_tokens_equal_transformers(smollm2):
    # Without digits: transformers' GGUF conversion does not split them, SmolLM2 does.
    from sleep_jax.interop.resolve import resolve

    path = resolve("SmolLM2-135M-Instruct")
    if path.suffix == ".gguf":
        peer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    else:
        peer = transformers.AutoTokenizer.from_pretrained(path)
    _, _, tokenizer = smollm2
    for text in (
        "The night keeps what the day has learnt; isn't it so?",
        "  spaces,\n\nlines\tand Zürich 夜 🌙",
        "<|im_start|>user\nHello<|im_end|>",
    ):
        want = peer.encode(text, add_special_tokens=False)
        assert tokenizer.encode_pieces([Piece(text, is_content=False)]) == want
        if "<|" not in text:  # names of special tokens in a user's text are plain text
            assert tokenizer.encode(text) == want


def test_local_tokenizer_is_never_downloaded(tmp_path, monkeypatch):
    def fetch(*_):
        raise AssertionError("nothing is to be fetched")

    monkeypatch.setenv("SLEEP_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sleep_jax.interop.resolve._local_snapshot", lambda _: None)
    monkeypatch.setattr("sleep_jax.interop.packaged._download", fetch)
    assert local_tokenizer("tiny").encode("a")
    for name in ("SmolLM2-135M-Instruct", "/nowhere", str(tmp_path), "no such model"):
        assert local_tokenizer(name) is None
