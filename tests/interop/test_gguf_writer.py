"""GGUF files of absorbed models: the base's bytes, what is appended, metadata and tokenizer."""

import dataclasses
import json

import gguf
import numpy as np
import pytest
from families import FAMILIES, write_family

from sleep_jax.interop.absorb import Units
from sleep_jax.interop.absorbed_model import AbsorbedModel
from sleep_jax.interop.gguf import GGUFFile, decoder_config, permute, unpermute
from sleep_jax.interop.gguf_tokenizer import metadata_of, read_tokenizer
from sleep_jax.interop.gguf_writer import write_gguf
from sleep_jax.interop.load import open_model
from sleep_jax.interop.tensors import leaves, read_params

Kind = gguf.GGMLQuantizationType


def units(cfg, width=40, total=64, first=1, seed=0):
    """Random units from layer `first` on, and zero ones."""
    rng = np.random.default_rng(seed)
    d, layers = cfg.width, cfg.layers - first
    shapes = {"gate": (layers, d, width), "up": (layers, d, width), "down": (layers, width, d)}
    expert = {name: rng.normal(size=x).astype(np.float32) for name, x in shapes.items()}
    return Units((expert,), first, total, d)


def no_units(cfg):
    return Units((), 0, 0, cfg.width)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """name -> (cfg, weights, tokenizer) of a tiny model of a family."""
    models = {}

    def open_family(name):
        if name not in models:
            folder = write_family(name, tmp_path_factory.mktemp("family"))
            models[name] = open_model(str(folder))
        return models[name]

    return open_family


@pytest.fixture(scope="module")
def base(family, tmp_path_factory):
    """kind -> a GGUF file of the tiny SmolLM2, its matrices of this type."""
    files = {}

    def write(kind):
        if kind not in files:
            cfg, weights, tokenizer = family("SmolLM2")
            path = tmp_path_factory.mktemp("base") / f"{kind}.gguf"
            write_gguf(path, AbsorbedModel(cfg, weights, no_units(cfg)), tokenizer, Kind.F16, "x")
            if kind != "F16":
                encode_again(path, Kind[kind])
            files[kind] = GGUFFile(path)
        return files[kind]

    return write


def encode_again(path, kind):
    """Stores the matrices of a GGUF file in another type."""
    file = GGUFFile(path)
    writer = gguf.GGUFWriter(path.with_suffix(".new"), "llama")
    for key, value in file.fields.items():
        if key != "general.architecture":
            writer.add_key_value(key, value, *file.kinds(key))
    for name in sorted(file.names()):
        array = gguf.quants.dequantize(file.stored(name), file.tensor(name).kind)
        stored = kind if array.ndim == 2 else Kind.F32
        writer.add_tensor(name, gguf.quants.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".new").replace(path)


def written(path, file, added, kind=None):
    cfg = decoder_config(file)
    write_gguf(path, AbsorbedModel(cfg, file, added(cfg)), read_tokenizer(file), kind, "slept")
    return GGUFFile(path)


def test_permute_is_the_inverse_of_unpermute():
    weight = np.arange(24).reshape(12, 2)
    np.testing.assert_array_equal(unpermute(permute(weight, 3), 3), weight)


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q4_1", "F16", "BF16"])
def test_write_gguf_keeps_the_bytes_of_a_gguf_base(kind, base, tmp_path):
    before = base(kind)
    after = written(tmp_path / "slept.gguf", before, units)
    assert after.names() == before.names()
    assert decoder_config(after) == decoder_config(before).replace(hidden=128 + 64)
    for name in before.names():
        stored, wide = before.stored(name), after.stored(name)
        assert after.tensor(name).kind == before.tensor(name).kind
        if ".ffn_gate." in name or ".ffn_up." in name:
            assert wide.shape == (128 + 64, stored.shape[1])
            wide = wide[: len(stored)]
        elif ".ffn_down." in name:
            wide = wide[:, : stored.shape[1]]
        np.testing.assert_array_equal(wide, stored, name)
        assert wide.tobytes() == stored.tobytes()


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_write_gguf_encodes_what_it_appends_as_its_tensor(kind, base, tmp_path):
    before = base(kind)
    cfg = decoder_config(before)
    after = written(tmp_path / "slept.gguf", before, units)
    for layer in range(cfg.layers):
        own = units(cfg).of_layer(layer)
        for leaf in ("gate", "up", "down"):
            read = after.read(f"blk.{layer}.ffn_{leaf}.weight")
            added = read[:, 128:] if leaf == "down" else read[128:]
            encoded = gguf.quants.quantize(own[leaf], Kind[kind])
            np.testing.assert_array_equal(added, gguf.quants.dequantize(encoded, Kind[kind]))
            if layer == 0:  # carries no memory
                assert not added.any()


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_write_gguf_of_zero_units_keeps_logits(kind, base, tmp_path, logits):
    before = base(kind)
    after = written(tmp_path / "slept.gguf", before, lambda cfg: units(cfg, width=0))
    tokens = np.random.default_rng(0).integers(0, 90, (2, 12)).astype(np.int32)
    got, want = (
        logits(cfg, {"params": read_params(cfg, file, np.float32)}, tokens)
        for file in (before, after)
        for cfg in [decoder_config(file)]
    )
    np.testing.assert_array_equal(got, want)


def test_write_gguf_keeps_the_metadata_of_a_gguf_base(base, tmp_path):
    before = base("Q8_0")
    after = written(tmp_path / "slept.gguf", before, units)
    changed = {"general.name": "slept", "llama.feed_forward_length": 192}
    assert dict(after.fields) == dict(before.fields) | changed
    assert all(after.kinds(key) == before.kinds(key) for key in before.fields)


@pytest.mark.parametrize("name", FAMILIES)
def test_write_gguf_of_a_folder_is_read_as_the_same_model(name, family, tmp_path):
    cfg, weights, tokenizer = family(name)
    model = AbsorbedModel(cfg, weights, units(cfg))
    path = tmp_path / "slept.gguf"
    write_gguf(path, model, tokenizer, Kind.F16, "slept")
    file = GGUFFile(path)
    assert decoder_config(file) == model.cfg
    got, want = read_params(model.cfg, file, np.float32), {}
    for leaf in leaves(model.cfg):
        rows = [np.concatenate([*model.rows(leaf, i)]) for i in range(leaf.layers or 1)]
        want[leaf.path] = [x.T if leaf.is_transposed else x for x in rows]
    flat = {"/".join(p.key for p in path): x for path, x in leaves_of(got)}
    for path, rows in want.items():
        # F16 has ten bits of fraction; bfloat16 of the base fits.
        np.testing.assert_allclose(
            flat[path], np.stack(rows) if path.startswith("layers") else rows[0], rtol=1e-3,
            atol=1e-6,
        )  # fmt: skip


def leaves_of(tree):
    import jax

    return jax.tree_util.tree_leaves_with_path(tree)


@pytest.mark.parametrize("name", FAMILIES)
def test_metadata_of_is_read_as_the_same_tokenizer(name, family, tmp_path):
    cfg, weights, tokenizer = family(name)
    path = tmp_path / "slept.gguf"
    model = AbsorbedModel(cfg, weights, no_units(cfg))
    write_gguf(path, model, tokenizer, Kind.Q8_0, "slept")
    again = read_tokenizer(GGUFFile(path))
    for text in ("In the 1871 days, it's 5.\n\n<|im_end|>", "Zürich  2024 <think>"):
        assert again.encode(text) == tokenizer.encode(text)
        chat = [{"role": "user", "content": text}]
        assert again.chat(chat) == tokenizer.chat(chat)
    assert again.eos_ids[0] == tokenizer.eos_ids[0]
    assert (again.pad_id, again.text_start) == (tokenizer.pad_id, tokenizer.text_start)
    assert len(again.backend.get_vocab()) == cfg.vocab  # every row of the embedding has a token


def test_metadata_of_a_tokenizer_without_a_name_raises(bpe):
    from tokenizers import pre_tokenizers

    from sleep_jax.interop.tokenizer import Tokenizer

    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match="splits text as none of smollm, llama-bpe, qwen2"):
        metadata_of(Tokenizer(bpe, special_tokens={"eos_token": "<|im_end|>"}), 300)


def test_metadata_of_a_tokenizer_without_merges_raises(tokenizer):
    with pytest.raises(ValueError, match="the tokenizer is a WordLevel without merges"):
        metadata_of(tokenizer, 97)


def test_write_gguf_refuses_types_that_cannot_be_written(base, tmp_path, monkeypatch):
    file = base("Q8_0")
    stored = dict(file._header.tensors)
    name = "blk.1.ffn_up.weight"
    changed = stored | {name: dataclasses.replace(stored[name], kind=Kind.IQ4_NL)}
    monkeypatch.setattr(file._header, "tensors", changed)
    with pytest.raises(ValueError, match=f"{name}.* is stored as IQ4_NL.*--type=Q8_0 or F16"):
        written(tmp_path / "slept.gguf", file, units)


def test_write_gguf_refuses_units_that_are_no_whole_blocks(base, tmp_path):
    with pytest.raises(ValueError, match=r"40 hidden units are no whole blocks of 32.*--pad=256"):
        written(tmp_path / "x.gguf", base("Q8_0"), lambda cfg: units(cfg, width=40, total=40))


def test_write_gguf_refuses_a_folder_in_its_own_type(family, tmp_path):
    cfg, weights, tokenizer = family("SmolLM2")
    with pytest.raises(ValueError, match="--type=base needs a base that is a GGUF file"):
        write_gguf(
            tmp_path / "x.gguf", AbsorbedModel(cfg, weights, units(cfg)), tokenizer, None, "x"
        )


def test_write_gguf_keeps_texts_that_are_no_utf8(base, tmp_path):
    file = base("Q8_0")
    fields = dict(file.fields) | {"general.author": "\udcff"}
    assert json.dumps(fields["general.author"]) == '"\\udcff"'
    kinds = {key: file.kinds(key) for key in file.fields}
    kinds["general.author"] = gguf.GGUFValueType.STRING, None
    path = tmp_path / "odd.gguf"
    odd = GGUFFile(file.path)
    odd.fields, odd.kinds = fields, kinds.__getitem__
    cfg = decoder_config(file)
    write_gguf(path, AbsorbedModel(cfg, odd, units(cfg)), read_tokenizer(file), None, "slept")
    assert GGUFFile(path).fields["general.author"] == "\udcff"
