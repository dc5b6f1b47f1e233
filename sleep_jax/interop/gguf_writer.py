"""Writes an absorbed model as a GGUF file, a chunk of rows at a time.

From a GGUF base every tensor keeps its type and its bytes. What is appended is encoded in the type
of its tensor: gate and up [hidden, d] get more rows, so the base's bytes come first as they are;
down [d, hidden] gets more columns, so in each row the base's blocks come first.
"""

import logging
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gguf
import numpy as np

from sleep_jax.interop.absorbed_model import AbsorbedModel, is_ffn
from sleep_jax.interop.gguf import GGUFFile, permute
from sleep_jax.interop.gguf_tokenizer import metadata_of
from sleep_jax.interop.huggingface import architecture_of
from sleep_jax.interop.tensors import Leaf, is_finite
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.attention import rope_frequencies
from sleep_jax.models.decoder_config import DecoderConfig

Kind, Value = gguf.GGMLQuantizationType, gguf.GGUFValueType
FILE_TYPES = {Kind.F16: gguf.LlamaFileType.MOSTLY_F16, Kind.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0}
_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
ROPE_DIVISORS = "rope_freqs.weight"


def write_gguf(
    path: pathlib.Path,
    model: AbsorbedModel,
    tokenizer: Tokenizer,
    kind: Kind | None,
    name: str,
    on_tensor: Callable[[], None] = lambda: None,
) -> None:
    """Writes a model.

    Args:
      path: of the file.
      model: that is written.
      tokenizer: of the model; a GGUF base's own metadata are kept instead.
      kind: type of matrices, of `FILE_TYPES`; None: as the base, a GGUF file, has each.
      name: of the model.
      on_tensor: called after every tensor.

    Raises:
      ValueError: `kind` is None and the base has FFNs of a type that cannot be written, or none;
        `units` are no whole blocks; a value is too large; the tokenizer has no form in GGUF.
    """
    is_gguf = isinstance(model.base, GGUFFile)
    if kind is None:
        check_base_kinds(model)
    values = _metadata_of_base(model.base) if is_gguf else _metadata(model.cfg, tokenizer)
    arch = model.base.architecture if is_gguf else _ARCHITECTURES[architecture_of(model.cfg)]
    hidden = f"{arch}.feed_forward_length"
    values[hidden] = (model.cfg.hidden, Value.UINT32, None)
    values["general.name"] = (name, Value.STRING, None)
    if kind is not None:
        values["general.file_type"] = (int(FILE_TYPES[kind]), Value.UINT32, None)
        values["general.quantization_version"] = (2, Value.UINT32, None)

    logging.getLogger("gguf.gguf_writer").setLevel(logging.ERROR)
    writer = gguf.GGUFWriter(path, arch)
    if "general.alignment" in values:
        writer.add_custom_alignment(values.pop("general.alignment")[0])
    for key, (value, *kinds) in values.items():
        writer.add_key_value(key, value, *kinds)
    tensors = dict(_tensors(model, arch, kind))
    for key, tensor in tensors.items():
        writer.add_tensor_info(key, tensor.shape, np.dtype(np.float32), tensor.nbytes, tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors.values():
        writer.write_tensor_data(tensor)
        on_tensor()
    writer.close()


def check_base_kinds(model: AbsorbedModel) -> None:
    """Checks that units can be appended in the types of the base's own FFNs.

    Raises:
      ValueError: a tensor has a type that cannot be written, or the base is no GGUF file.
    """
    if not isinstance(model.base, GGUFFile):
        raise ValueError("--type=base needs a base that is a GGUF file; give --type=F16 or Q8_0")
    for leaf in filter(is_ffn, model.leaves):
        for name in leaf.gguf:
            kind = model.base.tensor(name).kind
            block = gguf.GGML_QUANT_SIZES[kind][0]
            if leaf.path.endswith("/down/kernel") and model.units.width % block:
                raise ValueError(
                    f"{model.units.width} hidden units are no whole blocks of {block} ({kind.name})"
                    "; give --pad=256"
                )
            try:
                gguf.quants.quantize(np.zeros((1, block), np.float32), kind)
            except NotImplementedError:
                raise ValueError(
                    f"tensor {name!r} of the base is stored as {kind.name}, which can be read but "
                    "not written, so nothing can be appended to it; give --type=Q8_0 or F16, which "
                    "store the whole model anew"
                ) from None


class _Tensor:
    """A tensor whose bytes are made when it is written; GGUFWriter asks for `nbytes` and `tofile`.

    Attributes:
      shape, kind: of the tensor.
      nbytes: in the file.
    """

    def __init__(self, shape: tuple[int, ...], kind: Kind, chunks: Callable[[], Iterator]):
        self.shape, self.kind, self._chunks = shape, kind, chunks
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        self.nbytes = math.prod(shape) // block * block_bytes

    def tofile(self, file) -> None:
        for chunk in self._chunks():
            file.write(memoryview(np.ascontiguousarray(chunk)).cast("B"))


def _tensors(model: AbsorbedModel, arch: str, kind: Kind | None):
    """(name, tensor) of the file, in the order of the base where that is GGUF."""
    wide = {name: (leaf, i) for leaf in model.leaves for i, name in enumerate(leaf.gguf)}
    names = [*wide]
    if isinstance(model.base, GGUFFile):
        names = sorted(model.base.names(), key=lambda x: model.base.tensor(x).start)
    elif model.cfg.rope_scaling is not None:
        divisors = _rope_divisors(model.cfg)
        yield ROPE_DIVISORS, _Tensor(divisors.shape, Kind.F32, lambda: iter([divisors]))
    for name in names:
        if name not in wide:
            yield name, _copied(model.base, name)
        elif kind is not None:
            yield name, _converted(model, arch, *wide[name], kind)
        elif is_ffn(wide[name][0]):
            yield name, _appended(model, *wide[name])
        else:
            yield name, _copied(model.base, name)


def _copied(base: GGUFFile, name: str) -> _Tensor:
    """A tensor of the base, byte for byte."""
    tensor = base.tensor(name)
    return _Tensor(tensor.shape, tensor.kind, lambda: iter([base.stored(name)]))


def _appended(model: AbsorbedModel, leaf: Leaf, index: int) -> _Tensor:
    """A tensor of the base's FFN with units appended in its own type."""
    base, name = model.base, leaf.gguf[index]
    kind = base.tensor(name).kind

    def chunks():
        stored = base.stored(name)
        added = gguf.quants.quantize(model.added(leaf, index), kind).view(np.uint8)
        if leaf.path.endswith("/down/kernel"):
            yield np.concatenate([stored, added.reshape(len(stored), -1)], axis=1)
        else:
            yield stored
            yield added

    return _Tensor(leaf.shape, kind, chunks)


def _converted(model: AbsorbedModel, arch: str, leaf: Leaf, index: int, kind: Kind) -> _Tensor:
    """A tensor in a type of its own: matrices in `kind`, where their rows are whole blocks."""
    block = gguf.GGML_QUANT_SIZES[kind][0]
    if len(leaf.shape) == 1:
        kind = Kind.F32
    elif leaf.shape[-1] % block:
        kind = Kind.F16
    heads = {"q": model.cfg.heads, "k": model.cfg.kv_heads}
    is_permuted = arch == "llama" and leaf.path.split("/")[-2] in heads

    def chunks():
        for rows in [_whole(model, leaf, index)] if is_permuted else model.rows(leaf, index):
            if is_permuted:
                rows = permute(rows, heads[leaf.path.split("/")[-2]])
            with np.errstate(over="ignore"):
                encoded = gguf.quants.quantize(np.ascontiguousarray(rows, np.float32), kind)
            if kind == Kind.F16 and not is_finite(encoded):
                raise ValueError(
                    f"{leaf.gguf[index]} has a value too large for F16; give --type=Q8_0"
                )
            yield encoded

    return _Tensor(leaf.shape, kind, chunks)


def _whole(model: AbsorbedModel, leaf: Leaf, index: int) -> np.ndarray:
    return model.base.read(model.base_name(leaf, index))


def _rope_divisors(cfg: DecoderConfig) -> np.ndarray:
    """What Llama 3's scaling divides each rotary frequency by."""
    plain = rope_frequencies(cfg.replace(rope_scaling=None))
    return np.asarray(plain / rope_frequencies(cfg), np.float32)


def _metadata_of_base(base: GGUFFile) -> dict[str, tuple[Any, Value, Value | None]]:
    """The metadata of a GGUF file, with their types."""
    values = {}
    for key, value in base.fields.items():
        if key == "general.architecture" or value == []:  # what the writer adds; what it refuses
            continue
        values[key] = (_encoded(value), *base.kinds(key))
    return values


def _encoded(value: Any) -> Any:
    """Texts as bytes, so that what is no UTF-8 stays as it is."""
    if isinstance(value, list):
        return [_encoded(x) for x in value]
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def _metadata(
    cfg: DecoderConfig, tokenizer: Tokenizer
) -> dict[str, tuple[Any, Value, Value | None]]:
    """The metadata of a model that was no GGUF file."""
    arch = _ARCHITECTURES[architecture_of(cfg)]
    numbers: Mapping[str, Any] = {
        "block_count": cfg.layers,
        "context_length": cfg.max_position,
        "embedding_length": cfg.width,
        "attention.head_count": cfg.heads,
        "attention.head_count_kv": cfg.kv_heads,
        "attention.key_length": cfg.head_dim,
        "attention.value_length": cfg.head_dim,
        "attention.layer_norm_rms_epsilon": float(cfg.norm_eps),
        "rope.dimension_count": cfg.head_dim,
        "rope.freq_base": float(cfg.rope_theta),
        "vocab_size": cfg.vocab,
    }
    values = {f"{arch}.{name}": x for name, x in numbers.items()}
    typed = {"general.type": "model"} | values | metadata_of(tokenizer, cfg.vocab)
    return {key: (value, *_kinds(value)) for key, value in typed.items()}


def _kinds(value: Any) -> tuple[Value, Value | None]:
    """The types of a value of `_metadata`: whole numbers take 32 bits."""
    if isinstance(value, list):
        return Value.ARRAY, Value.STRING if isinstance(value[0], str) else Value.INT32
    kinds = {bool: Value.BOOL, int: Value.UINT32, float: Value.FLOAT32, str: Value.STRING}
    return kinds[type(value)], None
