"""Decoder config and dequantized weights from a GGUF file (llama.cpp)."""

import pathlib
import re

import gguf
import numpy as np

from sleep_jax.fields import MOST, Fields, one_of, shown
from sleep_jax.interop.gguf_header import Header, Tensor
from sleep_jax.interop.huggingface import (
    MAX_HEADS,
    MAX_LAYERS,
    MAX_VOCAB,
    MAX_WIDTH,
    MIN_EPS,
    ROTARY_BASE,
    SCALING,
)
from sleep_jax.interop.tensors import ALL
from sleep_jax.models.attention import rope_frequencies
from sleep_jax.models.decoder_config import DecoderConfig, RopeScaling

ARCHITECTURES = ("llama", "qwen2", "qwen3")


class GGUFFile:
    """A GGUF file as a `WeightsFile` and as the fields of its metadata.

    Attributes:
      path: the file.
      fields: its metadata.
      architecture: llama.cpp's name, one of `ARCHITECTURES`.
    """

    naming = "gguf"

    def __init__(self, path: pathlib.Path):
        """Maps the file; tensors are read when asked for.

        Raises:
          FileNotFoundError: no such file.
          ValueError: the file is truncated or not GGUF, of an unsupported architecture, or one of
            several parts.
        """
        self.path = path
        try:
            self._header = Header(path)
        except ValueError as error:
            raise ValueError(
                f"{path} ({path.stat().st_size} bytes) is truncated or not a GGUF file ({error}); "
                "download it again"
            ) from error
        self.fields = Fields(self._header.metadata, str(path))
        self.architecture = self.fields.text("general.architecture")
        if self.architecture not in ARCHITECTURES:
            self.fields.refuse("general.architecture", f"a model of {one_of(ARCHITECTURES)}")
        if self.fields.whole("split.count", default=1) > 1:
            self.fields.refuse("split.count", "the whole file, as `llama-gguf-split --merge` makes")

    def names(self) -> set[str]:
        """The tensors in the file."""
        return set(self._header.tensors)

    def file(self, name: str) -> str:
        """The path of the file; a GGUF model here is one file."""
        return str(self.path)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it.

        Raises:
          ValueError: no such tensor.
        """
        if name not in self._header.tensors:
            raise ValueError(f"{self.path} has no tensor {name!r}, which its metadata ask for")
        return self._header.tensors[name].shape

    def read(self, name: str, rows: slice = ALL) -> np.ndarray:
        """A tensor, or rows of it, dequantized to float32, with query and key rows in the order of
        Hugging Face.

        Raises:
          ValueError: no such tensor, or its storage type is not supported.
        """
        tensor = self.tensor(name)
        kind = re.search(r"\.attn_([qk])\.", name) if self.architecture == "llama" else None
        needed = rows
        if kind:  # whole heads, whose rows are in another order
            size = tensor.shape[0] // heads(self)["qk".index(kind[1])]
            first, end, _ = rows.indices(tensor.shape[0])
            needed = slice(first // size * size, -(-end // size) * size)
        try:
            array = self._header.read(tensor, needed)
        except NotImplementedError as error:
            raise ValueError(
                f"tensor {name!r} in {self.path} is stored as {tensor.kind.name}, which is not "
                "supported; convert the model to F16, BF16 or Q8_0"
            ) from error
        if not kind:
            return array
        return unpermute(array, len(array) // size)[first - needed.start : end - needed.start]

    def tensor(self, name: str) -> Tensor:
        """Where a tensor lies and how it is stored.

        Raises:
          ValueError: no such tensor.
        """
        self.shape(name)
        return self._header.tensors[name]

    def stored(self, name: str) -> np.ndarray:
        """The bytes of a tensor as the file has them, uint8 [..., bytes of a row], mapped.

        Raises:
          ValueError: no such tensor.
        """
        return self._header.stored(self.tensor(name))

    def kinds(self, key: str) -> tuple[gguf.GGUFValueType, gguf.GGUFValueType | None]:
        """The type of a value of the metadata, and that of the entries of an array."""
        return self._header.metadata.kinds(key)


def heads(file: GGUFFile) -> tuple[int, int]:
    """The numbers of query heads and of key-value heads of a layer.

    Raises:
      ValueError: layers differ in them, or they are out of range.
    """
    name = f"{file.architecture}.attention.head_count"
    query = file.fields.whole(name, 1, MAX_HEADS)
    return query, file.fields.whole(f"{name}_kv", 1, MAX_HEADS, query)


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undoes llama.cpp's row order of query and key.

    llama.cpp rotates neighbours (x_2i, x_2i+1) where Hugging Face rotates halves
    (x_i, x_{i + h/2}), so its converter interleaves the two halves of each head's rows.

    Args:
      weight: [heads * head_dim, in].
      heads: number of heads in the rows.

    Returns:
      The same shape.
    """
    rows = weight.shape[0]
    pairs = weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """The inverse of `unpermute`: rows in llama.cpp's order."""
    rows = weight.shape[0]
    halves = weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def decoder_config(file: GGUFFile) -> DecoderConfig:
    """The decoder config from the metadata.

    Raises:
      ValueError: a needed key is missing, has another type or is out of range; the model is a
        mixture of experts, has sliding windows, or has a rope scaling that is not supported.
    """
    read, arch = file.fields, file.architecture
    _reject_variants(file)
    width = read.whole(f"{arch}.embedding_length", 1, MAX_WIDTH)
    query, key = heads(file)
    head_dim = _head_dim(file, width, query)
    vocab = read.whole(f"{arch}.vocab_size", 1, MAX_VOCAB, default=None)
    eps = read.number(f"{arch}.attention.layer_norm_rms_epsilon", MIN_EPS, 1)
    fields = {
        "vocab": vocab or len(read.texts("tokenizer.ggml.tokens")),
        "width": width,
        "hidden": read.whole(f"{arch}.feed_forward_length", 1, MAX_WIDTH),
        "layers": read.whole(f"{arch}.block_count", 1, MAX_LAYERS),
        "heads": query,
        "kv_heads": key,
        "head_dim": head_dim,
        "rope_theta": read.number(f"{arch}.rope.freq_base", *ROTARY_BASE, 10000.0),
        "norm_eps": float(str(np.float32(eps))),  # 1e-05 as written, not as the nearest float32
        "tie_embeddings": "output.weight" not in file.names(),
        "attention_bias": arch == "qwen2",
        "qk_norm": arch == "qwen3",
        "max_position": read.whole(f"{arch}.context_length", 1),
    }
    try:
        cfg = DecoderConfig(**fields)
    except ValueError as error:
        raise ValueError(f"{read.where}: {error}") from error
    if "rope_freqs.weight" in file.names():
        cfg = cfg.replace(rope_scaling=_llama3_scaling(file, cfg))
    return cfg


def _reject_variants(file: GGUFFile):
    """Raises a ValueError for variants that the decoder would silently compute wrongly."""
    read, arch = file.fields, file.architecture
    if read.whole(f"{arch}.expert_count", 0, MOST, 0):
        raise ValueError(f"{file.path} is a mixture of experts; only dense models are supported")
    if read.whole(f"{arch}.attention.sliding_window", 0, MOST, 0):
        raise ValueError(
            f"{file.path} has sliding-window attention; only full attention is supported"
        )
    scaling = read.text(f"{arch}.rope.scaling.type", "none")
    if scaling != "none":
        raise ValueError(f"{file.path} has rope scaling {shown(scaling)}; supported: none, llama3")
    for name in (f"{arch}.rope.scaling.factor", f"{arch}.rope.scale_linear"):
        # Without a type, llama.cpp takes a factor for linear scaling.
        if read.number(name, 0, SCALING[1], 1.0) not in (0.0, 1.0):
            read.refuse(name, "a model without linear rope scaling")


def _head_dim(file: GGUFFile, width: int, query: int) -> int:
    """The width of a head; keys, values and the rotated part must have the same."""
    read, arch = file.fields, file.architecture
    name = f"{arch}.attention.key_length"
    if name not in read and width % query:
        read.refuse(f"{arch}.attention.head_count", f"a divisor of embedding_length={width}")
    head_dim = read.whole(name, 1, MAX_HEADS, width // query)
    for name in (f"{arch}.attention.value_length", f"{arch}.rope.dimension_count"):
        if read.whole(name, 1, MAX_HEADS, head_dim) != head_dim:
            read.refuse(name, f"{head_dim}, the width of a head: no other is supported")
    return head_dim


def _llama3_scaling(file: GGUFFile, cfg: DecoderConfig) -> RopeScaling:
    """Llama 3's scaling. GGUF stores only the divisor of each frequency, so they are compared with
    those of Llama 3's constants.
    """
    divisors = file.read("rope_freqs.weight")
    if divisors.shape != (cfg.head_dim // 2,) or not SCALING[0] <= divisors.max() <= SCALING[1]:
        raise ValueError(
            f"rope_freqs.weight in {file.path} has shape {list(divisors.shape)} or divisors out of "
            f"{SCALING}; each of the {cfg.head_dim // 2} frequencies has one"
        )
    scaling = RopeScaling(
        factor=float(divisors.max()),
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position=8192,
    )
    expected = rope_frequencies(cfg) / rope_frequencies(cfg.replace(rope_scaling=scaling))
    if not np.allclose(divisors, expected, rtol=1e-3):
        raise ValueError(
            f"rope_freqs.weight in {file.path} is not Llama 3's scaling (low_freq_factor 1, "
            "high_freq_factor 4, original context 8192), the only one supported"
        )
    return scaling
