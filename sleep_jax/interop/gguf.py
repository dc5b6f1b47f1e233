"""Decoder config and weights from a GGUF file (llama.cpp), dequantized."""

import pathlib

import gguf
import numpy as np

from sleep_jax.models.attention import rope_frequencies
from sleep_jax.models.config import DecoderConfig, RopeScaling

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_REQUIRED = object()


class GGUFFile:
    """A GGUF file as a `Checkpoint` and as a table of metadata.

    Attributes:
      path: the file.
      architecture: llama.cpp's name of it, one of `ARCHITECTURES`.
    """

    naming = "gguf"

    def __init__(self, path: pathlib.Path):
        """Maps the file; tensors are read when asked for.

        Raises:
          FileNotFoundError: no such file.
          ValueError: the file is truncated or not GGUF, or of an unsupported architecture.
        """
        self.path = path
        try:
            reader = gguf.GGUFReader(path)
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise ValueError(
                f"{path} ({path.stat().st_size} bytes) is truncated or not a GGUF file ({error}); "
                "download it again"
            ) from error
        self._fields = reader.fields
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.architecture = self.metadata("general.architecture")
        if self.architecture not in ARCHITECTURES:
            raise ValueError(
                f"{path} has architecture {self.architecture!r}; "
                f"supported: {', '.join(ARCHITECTURES)}"
            )

    def metadata(self, key: str, default=_REQUIRED):
        """A metadata value as Python's own types; `{arch}` in the key is the architecture.

        Raises:
          ValueError: there is no such key and no default.
        """
        key = key.replace("{arch}", getattr(self, "architecture", ""))
        if key in self._fields:
            return self._fields[key].contents()
        if default is _REQUIRED:
            raise ValueError(f"{self.path} has no metadata {key!r}; convert the model again")
        return default

    def names(self) -> set[str]:
        """The tensors in the file."""
        return set(self._tensors)

    def file(self, name: str) -> str:
        """The file of a tensor: there is but one."""
        return str(self.path)

    def read(self, name: str) -> np.ndarray:
        """A tensor, dequantized to float32, with query and key rows in the order of Hugging Face.

        Raises:
          ValueError: no such tensor.
        """
        if name not in self._tensors:
            raise ValueError(f"{self.path} has no tensor {name!r}, which its metadata ask for")
        tensor = self._tensors[name]
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if self.architecture == "llama" and ".attn_q." in name:
            return unpermute(array, self.metadata("{arch}.attention.head_count"))
        if self.architecture == "llama" and ".attn_k." in name:
            return unpermute(array, self._kv_heads())
        return array

    def _kv_heads(self) -> int:
        heads = self.metadata("{arch}.attention.head_count")
        return self.metadata("{arch}.attention.head_count_kv", heads)


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


def decoder_config(file: GGUFFile) -> DecoderConfig:
    """The decoder's shape from the metadata.

    Raises:
      ValueError: a needed key is missing; the model is a mixture of experts, has sliding windows,
        or has a rope scaling that is not supported.
    """
    if file.metadata("{arch}.expert_count", 0):
        raise ValueError(f"{file.path} is a mixture of experts; only dense models are supported")
    if file.metadata("{arch}.attention.sliding_window", 0):
        raise ValueError(
            f"{file.path} has sliding-window attention; only full attention is supported"
        )
    scaling = file.metadata("{arch}.rope.scaling.type", "none")
    if scaling != "none":
        raise ValueError(f"{file.path} has rope scaling {scaling!r}; supported: none, llama3")

    width = file.metadata("{arch}.embedding_length")
    heads = file.metadata("{arch}.attention.head_count")
    head_dim = file.metadata("{arch}.attention.key_length", width // heads)
    eps = file.metadata("{arch}.attention.layer_norm_rms_epsilon")
    cfg = DecoderConfig(
        vocab=file.metadata("{arch}.vocab_size", None)
        or len(file.metadata("tokenizer.ggml.tokens")),
        width=width,
        hidden=file.metadata("{arch}.feed_forward_length"),
        layers=file.metadata("{arch}.block_count"),
        heads=heads,
        kv_heads=file.metadata("{arch}.attention.head_count_kv", heads),
        head_dim=head_dim,
        rope_theta=file.metadata("{arch}.rope.freq_base", 10000.0),
        norm_eps=float(str(np.float32(eps))),  # 1e-05 as written, not as the nearest float32
        tie_embeddings="output.weight" not in file.names(),
        attention_bias=file.architecture == "qwen2",
        qk_norm=file.architecture == "qwen3",
        max_position=file.metadata("{arch}.context_length"),
    )
    if "rope_freqs.weight" in file.names():
        cfg = cfg.replace(rope_scaling=_llama3_scaling(file, cfg))
    return cfg


def _llama3_scaling(file: GGUFFile, cfg: DecoderConfig) -> RopeScaling:
    """Llama 3's scaling; GGUF keeps only each frequency's divisor, so its constants are checked."""
    divisors = file.read("rope_freqs.weight")
    scaling = RopeScaling(
        factor=float(divisors.max()),
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position=8192,
    )
    expected = rope_frequencies(cfg) / rope_frequencies(cfg.replace(rope_scaling=scaling))
    if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-3):
        raise ValueError(
            f"rope_freqs.weight in {file.path} is not Llama 3's scaling (low_freq_factor 1, "
            "high_freq_factor 4, original context 8192), the only one supported"
        )
    return scaling
