"""The sentence encoder against transformers' BertModel, tiny and random or the real weights."""

import json

import numpy as np
import pytest

from sleep_jax.models.encoder import load_encoder

TEXTS = [
    "the old bridge has seven arches",
    "a",
    "",
    "river " * 500,  # longer than the model takes
    "The keeper's lamp is out, and nobody knows why.",
    "unknownword bridge",
    *(f"the bridge {'river ' * n}lamp" for n in range(40)),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a random BERT whose weights are large enough to make mistakes visible."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    path = tmp_path_factory.mktemp("bert")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "the",
        "a",
        "old",
        "bridge",
        "has",
        "river",
        "lamp",
    ]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(length=16)  # a saved setting that the loader must undo
    tokenizer.save(str(path / "tokenizer.json"))

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=24, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=40, max_position_embeddings=48, layer_norm_eps=1e-12,
        initializer_range=0.5,
    )  # fmt: skip
    model = transformers.BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)  # biases start at zero otherwise
    model.save_pretrained(path)
    return path


def reference(path, texts, limit):
    """Mean-pooled, normalised embeddings by transformers, one text at a time: no padding."""
    import torch
    import transformers
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    model = transformers.BertModel.from_pretrained(path).eval()
    out = []
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([tokenizer.encode(text).ids])
            pooled = model(ids).last_hidden_state.mean(1)
            out.append(torch.nn.functional.normalize(pooled)[0].numpy())
    return np.stack(out)


def test_encoder_matches_a_tiny_random_bert(tiny):
    encoder = load_encoder(tiny)
    got = encoder.encode(TEXTS)
    assert got.shape == (len(TEXTS), 24) and got.dtype == np.float32
    np.testing.assert_allclose(got, reference(tiny, TEXTS, limit=48), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1.0, atol=1e-6)


def test_encode_does_not_depend_on_the_batch(tiny):
    encoder = load_encoder(tiny)
    together = encoder.encode(TEXTS)
    for i in (0, 2, 3, 20):
        np.testing.assert_allclose(encoder.encode([TEXTS[i]])[0], together[i], atol=1e-6)
    assert encoder.encode([]).shape == (0, 24)


def test_encode_compiles_once_a_bucket(tiny):
    import jax

    encoder, compiled = load_encoder(tiny), []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    short = [f"the bridge {'river ' * n}lamp" for n in range(20)] * 3
    for count in (1, 8, 32):
        encoder.encode(short[:count])
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for count in (2, 5, 9, 31, 33, 60):
            encoder.encode(short[:count])
        assert not compiled
        encoder.encode(["river " * 40])  # a longer bucket: the listener does listen
        assert compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_load_encoder_reads_the_length_limit(tiny, tmp_path):
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 10}')
    got = load_encoder(tmp_path).encode(TEXTS)
    np.testing.assert_allclose(got, reference(tiny, TEXTS, limit=10), atol=1e-5)


def test_load_encoder_rejects_another_activation(tiny, tmp_path):
    config = json.loads((tiny / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    with pytest.raises(ValueError, match="hidden_act='relu'"):
        load_encoder(tmp_path)


@pytest.mark.slow
def test_encoder_matches_the_real_weights():
    from pathlib import Path

    pytest.importorskip("transformers")
    from sleep_jax.interop.resolve import resolve

    path = Path(resolve("all-MiniLM-L6-v2"))
    texts = [
        "The bridge has seven arches.",
        "",
        "Zürich's harbour, 61 m long; nobody knows why…",
        "A long text. " * 120,
    ]
    got = load_encoder(path).encode(texts)
    np.testing.assert_allclose(got, reference(path, texts, limit=256), atol=1e-5, rtol=0)
