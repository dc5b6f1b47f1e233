import json
import struct

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from sleep_jax.interop.huggingface import decoder_config, read_config
from sleep_jax.interop.safetensors import SafetensorsFolder
from sleep_jax.interop.tensors import read_params
from sleep_jax.models.decoder import Decoder

SIZES = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "llama": (transformers.LlamaConfig, {}),
    "smollm2": (transformers.LlamaConfig, {"tie_word_embeddings": True}),
    "qwen2": (transformers.Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (transformers.Qwen3Config, {"head_dim": 8}),
}


def tiny(family):
    """A random Hugging Face model, norms and biases included."""
    config, changes = FAMILIES[family]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config(**SIZES | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def load(folder, dtype=np.float32):
    cfg = decoder_config(read_config(folder))
    return cfg, read_params(cfg, SafetensorsFolder(folder), dtype)


def expected(model):
    """Our `params`, from the modules of the Hugging Face model."""

    def stack(get):
        return np.stack([get(layer).detach().float().numpy() for layer in model.model.layers])

    def linear(get):
        group = {"kernel": stack(lambda layer: get(layer).weight.T)}
        if get(model.model.layers[0]).bias is not None:
            group["bias"] = stack(lambda layer: get(layer).bias)
        return group

    attention = {n: linear(lambda x, n=n: getattr(x.self_attn, f"{n}_proj")) for n in "qkvo"}
    if hasattr(model.model.layers[0].self_attn, "q_norm"):
        attention["q_norm"] = {"scale": stack(lambda layer: layer.self_attn.q_norm.weight)}
        attention["k_norm"] = {"scale": stack(lambda layer: layer.self_attn.k_norm.weight)}
    mlp = {n: linear(lambda x, n=n: getattr(x.mlp, f"{n}_proj")) for n in ("gate", "up", "down")}
    tree = {
        "embed": {"embedding": model.model.embed_tokens.weight.detach().float().numpy()},
        "layers": {
            "attention_norm": {"scale": stack(lambda layer: layer.input_layernorm.weight)},
            "attention": attention,
            "mlp_norm": {"scale": stack(lambda layer: layer.post_attention_layernorm.weight)},
            "mlp": mlp,
        },
        "final_norm": {"scale": model.model.norm.weight.detach().float().numpy()},
    }
    if not model.config.tie_word_embeddings:
        tree["head"] = {"kernel": model.lm_head.weight.detach().float().numpy().T}
    return tree


@pytest.mark.parametrize("shard", ["5GB", "6KB"])
@pytest.mark.parametrize("family", FAMILIES)
def test_read_params_is_exact_for_every_family(family, shard, tmp_path):
    model = tiny(family)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 or shard == "5GB"
    _, params = load(tmp_path)
    want = expected(model)
    assert jax.tree.structure(params) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, params, want)


@pytest.mark.parametrize("family", FAMILIES)
def test_read_params_has_the_decoder_tree(family, tmp_path):
    tiny(family).save_pretrained(tmp_path)
    cfg, params = load(tmp_path, jnp.dtype(jnp.bfloat16))
    model = Decoder(cfg.replace(dtype=jnp.bfloat16))
    abstract_params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))[
        "params"
    ]

    def shapes(tree):
        return jax.tree.map(lambda x: (x.shape, jnp.dtype(x.dtype)), tree)

    assert shapes(params) == shapes(abstract_params)


def test_bfloat16_checkpoints_read_exactly(tmp_path):
    model = tiny("llama").bfloat16()
    model.save_pretrained(tmp_path)
    want = expected(model)
    _, wide = load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, wide, want)
    _, narrow = load(tmp_path, np.dtype(ml_dtypes.bfloat16))
    assert narrow["embed"]["embedding"].dtype == ml_dtypes.bfloat16
    assert narrow["final_norm"]["scale"].dtype == np.float32
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.float32(x), y), narrow, want)


def test_stored_tied_head_is_ignored(tmp_path):
    tiny("smollm2").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    _, params = load(tmp_path)
    assert "head" not in params


@pytest.fixture
def folder(tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_missing_tensor_raises(folder):
    rewrite(folder, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(
        ValueError, match=r"model\.safetensors has no tensor 'model.layers.1.mlp.up"
    ):
        load(folder)


def test_wrong_shape_raises(folder):
    name = "model.layers.2.self_attn.k_proj.weight"
    rewrite(folder, lambda t: t.update({name: t[name].T.copy()}))
    with pytest.raises(ValueError, match=r"k_proj.* has shape \[16, 8\].* asks for \[8, 16\]"):
        load(folder)


def test_unused_tensor_raises(folder):
    extra = {"model.layers.3.mlp.up_proj.weight": np.zeros(1, np.float32)}
    rewrite(folder, lambda t: t.update(extra))
    with pytest.raises(ValueError, match=r"1 tensors .*layers\.3\.mlp.*layers=3"):
        load(folder)


def test_integer_weights_raise(folder):
    extra = {"model.norm.weight": np.zeros(16, np.int8)}
    rewrite(folder, lambda t: t.update(extra))
    with pytest.raises(ValueError, match=r"model\.norm\.weight.*stored as I8; supported: F32"):
        load(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_file_raises(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors .*truncated or damaged"):
        load(folder)


def test_tensor_that_is_described_by_a_list_raises(folder):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    header["model.norm.weight"] = [*header["model.norm.weight"].values()]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    with pytest.raises(ValueError, match=r"model\.norm\.weight=\[.*; give an object"):
        load(folder)


def test_folder_without_weights_raises(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        load(folder)


def test_sharded_checkpoint_errors(tmp_path):
    tiny("llama").save_pretrained(tmp_path, max_shard_size="6KB")
    index = tmp_path / "model.safetensors.index.json"
    whole = index.read_text()

    shards = json.loads(whole)
    del shards["weight_map"]["model.norm.weight"]
    index.write_text(json.dumps(shards))
    with pytest.raises(ValueError, match=r"index\.json has no tensor 'model.norm.weight'"):
        load(tmp_path)

    index.write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cannot parse .*index\.json"):
        load(tmp_path)

    index.write_text(whole)
    shard = json.loads(whole)["weight_map"]["model.norm.weight"]
    (tmp_path / shard).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks 1 of the .* shards.*{shard}"):
        load(tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        ("[]", r"index\.json holds \[\]; it must be an object"),
        ("{}", r"index\.json has no weight_map; give it an object"),
        ('{"weight_map": []}', r"weight_map=\[\]; give an object"),
        ('{"weight_map": {}}', "weight_map names no tensor"),
        ('{"weight_map": {"a": 3}}', "weight_map.a=3; give a string"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "weight_map.a='../b.*the name of a .safete"),
    ],
)
def test_index_fields_are_type_checked(content, message, folder):
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_nonfinite_weights_raise(bad, dtype, folder):
    def spoil(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"][2, 3] = bad

    rewrite(folder, spoil)
    with pytest.raises(
        ValueError, match=r"'model\.layers\.1\.mlp\.up_proj\.weight' in .* holds NaN"
    ):
        load(folder, np.dtype(dtype))


def test_weights_that_overflow_the_dtype_raise(folder):
    largest = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    for value, is_kept in ((largest, True), (-largest, True), (3.4e38, True), (-1e39, False)):
        wide = np.full(16, value)
        rewrite(
            folder,
            lambda t, wide=wide: t.update(
                {"model.layers.0.mlp.up_proj.weight": np.full((40, 16), wide[0])}
            ),
        )
        if is_kept:
            load(folder, np.dtype(np.float32))
        else:
            with pytest.raises(ValueError, match="too large for float32"):
                load(folder, np.dtype(np.float32))
