"""The frozen sentence encoder behind r_sem: all-MiniLM-L6-v2, a BERT, as one pure function.

Post-norm BERT in float32 with exact gelu, mean pooling over real tokens and L2 norm (Reimers and
Gurevych 2019, arXiv 1908.10084; Wang et al. 2020, arXiv 2002.10957). Layers are scanned.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from sleep_jax.fields import read_object, reason, shown

LENGTHS = (32, 64, 128, 256)  # word pieces a batch is padded to
BATCHES = (1, 8, 32)  # rows a batch is padded to


def _dense(x, layer, name):
    weight, bias = layer[f"{name}.weight"], layer[f"{name}.bias"]  # torch: [out, in]
    return jnp.einsum("...i,oi->...o", x, weight, precision=lax.Precision.HIGHEST) + bias


def _layer_norm(x, layer, name, eps):
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    x = x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)
    return x * layer[f"{name}.weight"] + layer[f"{name}.bias"]


def embed(params: dict, ids: jax.Array, mask: jax.Array, *, heads: int, eps: float) -> jax.Array:
    """Sentence embeddings.

    Args:
      params: {"embeddings": tensors, "layers": tensors stacked over layers}, float32, under their
        Hugging Face names; see `load_encoder`.
      ids: [batch, time] int word-piece ids.
      mask: [batch, time] bool, real tokens.
      heads: static, attention heads.
      eps: static, layer-norm epsilon.

    Returns:
      [batch, width] float32, rows of norm 1 (of norm 0 where the mask is empty).
    """
    table = params["embeddings"]
    x = table["word_embeddings.weight"][ids]
    x = x + table["position_embeddings.weight"][: ids.shape[1]]
    x = x + table["token_type_embeddings.weight"][0]
    x = _layer_norm(x, table, "LayerNorm", eps)
    batch, time, width = x.shape
    head_dim = width // heads

    def layer_step(x, layer):
        def split(name):
            return _dense(x, layer, f"attention.self.{name}").reshape(batch, time, heads, head_dim)

        q, k, v = split("query"), split("key"), split("value")
        scores = jnp.einsum("bthd,bshd->bhts", q, k, precision=lax.Precision.HIGHEST)
        # Finite, so that a row of padding alone gives no NaN.
        scores = jnp.where(mask[:, None, None, :], scores / np.sqrt(head_dim), -1e30)
        mixed = jnp.einsum(
            "bhts,bshd->bthd", jax.nn.softmax(scores), v, precision=lax.Precision.HIGHEST
        )
        mixed = _dense(mixed.reshape(x.shape), layer, "attention.output.dense")
        x = _layer_norm(x + mixed, layer, "attention.output.LayerNorm", eps)
        hidden = jax.nn.gelu(_dense(x, layer, "intermediate.dense"), approximate=False)
        out = _dense(hidden, layer, "output.dense")
        return _layer_norm(x + out, layer, "output.LayerNorm", eps), None

    x, _ = lax.scan(layer_step, x, params["layers"])
    weight = mask[:, :, None].astype(jnp.float32)
    pooled = jnp.sum(x * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1.0)
    return pooled / jnp.maximum(jnp.linalg.norm(pooled, axis=-1, keepdims=True), 1e-12)


def _bucket(size: int, sizes: Sequence[int]) -> int:
    return next(s for s in sizes if s >= size)


class SentenceEncoder:
    """Texts to unit vectors; compiles once for each (batch, length) bucket that occurs."""

    def __init__(self, params: dict, tokenizer: Tokenizer, *, heads: int, eps: float, limit: int):
        """Args: see `embed`; `limit` is the number of word pieces a text is truncated to."""
        self.width = params["embeddings"]["word_embeddings.weight"].shape[1]
        self._params = jax.device_put(params)
        self._lengths = tuple(length for length in LENGTHS if length < limit) + (limit,)
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(limit)
        self._embed = jax.jit(functools.partial(embed, heads=heads, eps=eps))

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts, in their order: [n, width] float32, rows of norm 1."""
        pieces = [e.ids for e in self._tokenizer.encode_batch(list(texts))]
        out = np.zeros((len(pieces), self.width), np.float32)
        by_length = sorted(range(len(pieces)), key=lambda i: len(pieces[i]))
        for start in range(0, len(pieces), BATCHES[-1]):
            rows = by_length[start : start + BATCHES[-1]]
            shape = _bucket(len(rows), BATCHES), _bucket(len(pieces[rows[-1]]), self._lengths)
            ids, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
            for slot, row in enumerate(rows):
                ids[slot, : len(pieces[row])] = pieces[row]
                mask[slot, : len(pieces[row])] = True
            out[rows] = np.asarray(self._embed(self._params, ids, mask))[: len(rows)]
        return out


def load_encoder(path: str | Path) -> SentenceEncoder:
    """Loads a BERT sentence encoder from a folder in Hugging Face's layout.

    Args:
      path: folder with `config.json`, `model.safetensors`, `tokenizer.json`. An optional
        `sentence_bert_config.json` gives the truncation length (256 for all-MiniLM-L6-v2).

    Raises:
      ValueError: if the config asks for what this encoder does not compute, or a file is damaged.
    """
    path = Path(path)
    config = read_object(path / "config.json")
    for field, value in (("model_type", "bert"), ("hidden_act", "gelu")):
        if config.get(field, value) != value:
            raise ValueError(
                f"{path / 'config.json'}: {field}={shown(config[field])}; this encoder computes "
                f"{value!r} only, load a BERT with exact gelu such as all-MiniLM-L6-v2"
            )
    limit = min(LENGTHS[-1], config.whole("max_position_embeddings", 1))
    sentence_config = path / "sentence_bert_config.json"
    if sentence_config.exists():
        limit = min(limit, read_object(sentence_config).whole("max_seq_length", 1))

    weights = _weights(path / "model.safetensors")
    embeddings = {
        name.removeprefix("embeddings."): value
        for name, value in weights.items()
        if name.startswith("embeddings.")
    }
    first = "encoder.layer.0."
    names = [name.removeprefix(first) for name in weights if name.startswith(first)]
    depth = range(config.whole("num_hidden_layers", 1, 1000))
    expected = [f"encoder.layer.{i}.{n}" for n in names for i in depth]
    if missing := [name for name in expected if name not in weights]:
        raise ValueError(f"{path / 'model.safetensors'} has no tensor {missing[0]!r}")
    layers = {n: np.stack([weights[f"encoder.layer.{i}.{n}"] for i in depth]) for n in names}
    return SentenceEncoder(
        {"embeddings": embeddings, "layers": layers},
        Tokenizer.from_file(str(path / "tokenizer.json")),
        heads=config.whole("num_attention_heads", 1, 4096),
        eps=config.number("layer_norm_eps", 1e-30, 1),
        limit=limit,
    )


def _weights(file: Path) -> dict[str, np.ndarray]:
    """The weights and biases of a file, in float32."""
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise ValueError(
            f"{file} is truncated or damaged ({reason(error)}); download it again"
        ) from error
    weights = {name: x for name, x in tensors.items() if name.endswith((".weight", ".bias"))}
    if bad := [name for name, x in weights.items() if not np.isfinite(x).all()]:
        raise ValueError(f"tensor {bad[0]!r} in {file} holds NaN or infinity; download it again")
    return {name: x.astype(np.float32) for name, x in weights.items()}
