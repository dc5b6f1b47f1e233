import struct
import tracemalloc

import gguf
import jax
import numpy as np
import pytest
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from sleep_jax.interop.gguf import GGUFFile, decoder_config, unpermute
from sleep_jax.interop.gguf_header import Header
from sleep_jax.interop.tensors import leaves, read_params
from sleep_jax.models.decoder_config import DecoderConfig, RopeScaling

CFG = DecoderConfig(
    vocab=40,
    width=32,
    hidden=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    rope_theta=1e5,
    norm_eps=1e-5,
    tie_embeddings=True,
    max_position=64,
)
FAMILIES = {
    "llama": CFG,
    "qwen2": CFG.replace(attention_bias=True, tie_embeddings=False),
    "qwen3": CFG.replace(qk_norm=True, head_dim=16),
}


def permute(weight, heads):
    """The permutation of q and k by llama.cpp's converter (`LlamaModel.permute`)."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def random_tensors(cfg):
    """Tensors in the order of Hugging Face, by GGUF name."""
    rng = np.random.default_rng(0)
    names = [(name, leaf.shape) for leaf in leaves(cfg) for name in leaf.gguf]
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in names}


def write(path, arch, cfg, tensors, *, extra=None, skip=(), kind=gguf.GGMLQuantizationType.F32):
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(cfg.layers)
    writer.add_context_length(cfg.max_position)
    writer.add_embedding_length(cfg.width)
    writer.add_feed_forward_length(cfg.hidden)
    writer.add_head_count(cfg.heads)
    writer.add_head_count_kv(cfg.kv_heads)
    writer.add_rope_freq_base(cfg.rope_theta)
    writer.add_layer_norm_rms_eps(cfg.norm_eps)
    writer.add_vocab_size(cfg.vocab)
    if cfg.head_dim * cfg.heads != cfg.width:
        writer.add_key_length(cfg.head_dim)
    for key, value in (extra or {}).items():
        writer.kv_data[0].pop(key, None)
        writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    for name, tensor in tensors.items():
        if name in skip:
            continue
        if arch == "llama" and ".attn_q." in name:
            tensor = permute(tensor, cfg.heads)
        if arch == "llama" and ".attn_k." in name:
            tensor = permute(tensor, cfg.kv_heads)
        stored = kind if tensor.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(tensor, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def stacked(tensors, leaf):
    values = [tensors[name].T if leaf.is_transposed else tensors[name] for name in leaf.gguf]
    return values[0] if leaf.layers is None else np.stack(values)


@pytest.mark.parametrize("arch", FAMILIES)
def test_read_params_round_trip(arch, tmp_path):
    cfg = FAMILIES[arch]
    tensors = random_tensors(cfg)
    file = GGUFFile(write(tmp_path / "tiny.gguf", arch, cfg, tensors))
    assert decoder_config(file) == cfg
    params = read_params(cfg, file, np.float32)
    flat = {"/".join(k.key for k in path): x for path, x in jax.tree.leaves_with_path(params)}
    assert flat.keys() == {leaf.path for leaf in leaves(cfg)}
    for leaf in leaves(cfg):
        np.testing.assert_array_equal(flat[leaf.path], stacked(tensors, leaf), leaf.path)


@pytest.mark.parametrize(
    "kind, tolerance", [("F16", 2e-3), ("BF16", 2e-2), ("Q8_0", 2e-2), ("Q4_1", 0.2)]
)
def test_quantized_tensors_are_close(kind, tolerance, tmp_path):
    tensors = random_tensors(CFG)
    path = tmp_path / "tiny.gguf"
    write(path, "llama", CFG, tensors, kind=gguf.GGMLQuantizationType[kind])
    params = read_params(CFG, GGUFFile(path), np.float32)
    for name in "qkv":
        want = np.stack([tensors[f"blk.{i}.attn_{name}.weight"].T for i in range(CFG.layers)])
        got = params["layers"]["attention"][name]["kernel"]
        np.testing.assert_allclose(got, want, atol=tolerance)
        assert not np.array_equal(got, want)  # it was stored in a smaller type


def test_unpermute_by_hand():
    # One head of four rows: halves (0, 1), (2, 3) are stored interleaved as 0, 2, 1, 3.
    stored = np.array([[0.0], [2.0], [1.0], [3.0]])
    np.testing.assert_array_equal(unpermute(stored, 1)[:, 0], [0, 1, 2, 3])
    two = np.concatenate([stored, stored + 4])
    np.testing.assert_array_equal(unpermute(two, 2)[:, 0], np.arange(8))


def divisors(low, high, original, head_dim=8):
    """The divisor of each frequency by transformers' llama3 scaling, which GGUF stores."""
    scaling = {"factor": 32.0, "low_freq_factor": low, "high_freq_factor": high}
    config = transformers.LlamaConfig(
        hidden_size=32,
        num_attention_heads=4,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 1e5,
            "original_max_position_embeddings": original,
            **scaling,
        },
    )
    scaled = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].numpy()
    plain = 1e5 ** -(np.arange(0, head_dim, 2) / head_dim)
    return (plain / scaled).astype(np.float32)


def test_llama3_scaling_is_recovered(tmp_path):
    tensors = random_tensors(CFG) | {"rope_freqs.weight": divisors(1.0, 4.0, 8192)}
    file = GGUFFile(write(tmp_path / "a.gguf", "llama", CFG, tensors))
    cfg = decoder_config(file)
    assert cfg.rope_scaling.factor == pytest.approx(32.0, rel=1e-6)
    assert cfg.rope_scaling == RopeScaling(cfg.rope_scaling.factor, 1.0, 4.0, 8192)
    assert read_params(cfg, file, np.float32)["embed"]["embedding"].shape == (40, 32)

    tensors["rope_freqs.weight"] = divisors(1.0, 4.0, 512)
    other = GGUFFile(write(tmp_path / "b.gguf", "llama", CFG, tensors))
    with pytest.raises(ValueError, match="not Llama 3's scaling"):
        decoder_config(other)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("llama.expert_count", 8, "mixture of experts"),
        ("llama.attention.sliding_window", 16, "sliding-window"),
        ("llama.rope.scaling.type", "yarn", "rope scaling 'yarn'; supported: none, llama3"),
    ],
)
def test_unsupported_variants_raise(key, value, message, tmp_path):
    path = write(tmp_path / "tiny.gguf", "llama", CFG, {}, extra={key: value})
    with pytest.raises(ValueError, match=message):
        decoder_config(GGUFFile(path))


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("llama.rope.dimension_count", 4, "rope.dimension_count=4; give 8, the width of a head"),
        ("llama.attention.value_length", 16, "value_length=16; give 8"),
        ("llama.attention.head_count_kv", [2, 1], r"head_count_kv=\[2, 1\]; give a whole number"),
        ("llama.attention.head_count_kv", 3, "kv_heads=3 does not divide heads=4"),
        ("llama.attention.head_count", 0, "head_count=0"),
        ("llama.attention.head_count", 5, "head_count=5; give a divisor of embedding_length=32"),
        ("llama.feed_forward_length", [64, 64], "feed_forward_length="),
        ("llama.embedding_length", "32", "embedding_length='32'"),
        ("llama.block_count", 10**9, "block_count=1000000000; give a whole number from 1 to 1000"),
        ("llama.attention.layer_norm_rms_epsilon", float("nan"), "rms_epsilon=nan"),
        ("llama.rope.freq_base", float("inf"), "freq_base=inf"),
        ("llama.rope.scaling.factor", 4.0, "factor=4.0; give a model without linear rope"),
        ("llama.rope.scale_linear", 4.0, "scale_linear=4.0"),
        ("split.count", 3, "split.count=3; give the whole file, as `llama-gguf-split --merge`"),
    ],
)
def test_decoder_config_checks_types_and_ranges(key, value, message, tmp_path):
    path = write(tmp_path / "tiny.gguf", "llama", CFG, {}, extra={key: value})
    with pytest.raises(ValueError, match=rf"tiny\.gguf: .*{message}") as error:
        decoder_config(GGUFFile(path))
    assert str(error.value).count("\n") == 0


def test_rope_freqs_of_wrong_shape_raise(tmp_path):
    tensors = random_tensors(CFG) | {"rope_freqs.weight": np.ones(3, np.float32)}
    file = GGUFFile(write(tmp_path / "a.gguf", "llama", CFG, tensors))
    with pytest.raises(ValueError, match=r"rope_freqs.*shape \[3\].*each of the 4 frequencies"):
        decoder_config(file)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_weights_raise(bad, tmp_path):
    tensors = random_tensors(CFG)
    tensors["blk.1.ffn_up.weight"][3, 5] = bad
    file = GGUFFile(write(tmp_path / "tiny.gguf", "llama", CFG, tensors))
    with pytest.raises(ValueError, match=r"'blk\.1\.ffn_up\.weight' in .*tiny\.gguf holds NaN"):
        read_params(CFG, file, np.float32)


def test_integer_tensors_raise(tmp_path):
    tensors = random_tensors(CFG)
    tensors["output_norm.weight"] = np.ones(32, np.int8)
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"'output_norm\.weight' .* is stored as I8"):
        GGUFFile(path).read("output_norm.weight")


def huge(count):
    """A header with one key, an array that declares `count` numbers and has none."""
    key = b"general.architecture"
    lengths = [(1, "<Q"), (len(key), "<Q")]
    head = b"GGUF" + struct.pack("<IQ", 3, 0) + b"".join(struct.pack(f, n) for n, f in lengths)
    return head + key + struct.pack("<IIQ", 9, 4, count)


def test_declared_lengths_allocate_nothing(tmp_path):
    path = tmp_path / "huge.gguf"
    path.write_bytes(huge(10**15))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"4000000000000000 bytes are declared at byte"):
            GGUFFile(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_header_matches_gguf_package(tmp_path):
    extra = {"a.list": [1, 2, 3], "a.words": ["x", "ü"], "a.flag": True, "a.small": -7, "a.x": 0.5}
    path = write(tmp_path / "t.gguf", "llama", CFG, random_tensors(CFG), extra=extra)
    ours, peer = Header(path), gguf.GGUFReader(path)
    theirs = {k: f.contents() for k, f in peer.fields.items() if not k.startswith("GGUF.")}
    assert dict(ours.metadata) == theirs
    assert {t.name: (t.data_offset, t.n_bytes) for t in peer.tensors} == {
        name: (t.start, t.size) for name, t in ours.tensors.items()
    }


def test_unsupported_architecture_raises(tmp_path):
    path = write(tmp_path / "tiny.gguf", "gemma2", CFG, {})
    with pytest.raises(
        ValueError, match=r"general\.architecture='gemma2'; give a model of 'llama' or"
    ):
        GGUFFile(path)


def test_missing_tensor_or_metadata_raises(tmp_path):
    path = tmp_path / "tiny.gguf"
    write(path, "llama", CFG, random_tensors(CFG), skip=("blk.1.ffn_up.weight",))
    file = GGUFFile(path)
    with pytest.raises(ValueError, match=r"tiny\.gguf has no tensor 'blk\.1\.ffn_up\.weight'"):
        read_params(CFG, file, np.float32)
    with pytest.raises(ValueError, match=r"tiny\.gguf has no llama\.nothing; give it a whole"):
        file.fields.whole("llama.nothing")


def test_every_truncation_raises(tmp_path):
    path = tmp_path / "tiny.gguf"
    whole = write(path, "llama", CFG, random_tensors(CFG)).read_bytes()
    for keep in (0, 3, 10, 40, 200, 700, len(whole) // 2, len(whole) - 128):
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=rf"tiny\.gguf \({keep} bytes\) is truncated"):
            GGUFFile(path)
    path.write_bytes(b"GARBAGE!" * 100)
    with pytest.raises(ValueError, match="not a GGUF file"):
        GGUFFile(path)
