"""The leaves of the decoder's `params`: shapes, names in a checkpoint, and reading them.

Checkpoints store a linear map as [out, in] and each layer apart; `params` holds [in, out] with the
layers stacked on axis 0.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import NamedSharding

from sleep_jax.fields import named
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import spec_of

CHUNK = 2**23  # numbers of a tensor that are read or converted at a time
ALIGNMENT = 64  # bytes; of arrays that JAX need not copy

# Path in `params`: (Hugging Face name, GGUF name), without the suffix `.weight` or `.bias`.
_NAMES = {
    "embed/embedding": ("model.embed_tokens", "token_embd"),
    "layers/attention_norm/scale": ("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    "layers/attention/q/kernel": ("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    "layers/attention/k/kernel": ("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    "layers/attention/v/kernel": ("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    "layers/attention/o/kernel": ("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    "layers/attention/q/bias": ("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    "layers/attention/k/bias": ("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    "layers/attention/v/bias": ("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    "layers/attention/q_norm/scale": ("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"),
    "layers/attention/k_norm/scale": ("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"),
    "layers/mlp_norm/scale": ("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    "layers/mlp/gate/kernel": ("model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    "layers/mlp/up/kernel": ("model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    "layers/mlp/down/kernel": ("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
    "final_norm/scale": ("model.norm", "output_norm"),
    "head/kernel": ("lm_head", "output"),
}


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of `params` and the checkpoint tensors it comes from.

    Attributes:
      path: its path in `params`, e.g. `layers/attention/q/kernel`.
      shape: shape of one checkpoint tensor, e.g. [out, in].
      layers: number of checkpoint tensors stacked in it; None for a leaf outside the layers.
      huggingface, gguf: tensor names, one for each layer.
    """

    path: str
    shape: tuple[int, ...]
    layers: int | None
    huggingface: tuple[str, ...]
    gguf: tuple[str, ...]

    @property
    def is_transposed(self) -> bool:
        """Whether a checkpoint stores the transpose: [out, in] for our [in, out]."""
        return self.path.endswith("/kernel")

    @property
    def is_norm(self) -> bool:
        """Whether this is a norm scale, which stays float32."""
        return self.path.endswith("/scale")


def leaves(cfg: DecoderConfig) -> tuple[Leaf, ...]:
    """Every leaf of the `params` of a decoder of this config."""
    d, f, h = cfg.width, cfg.hidden, cfg.head_dim
    query, key = cfg.heads * h, cfg.kv_heads * h
    shapes = {
        "embed/embedding": (cfg.vocab, d),
        "layers/attention_norm/scale": (d,),
        "layers/attention/q/kernel": (query, d),
        "layers/attention/k/kernel": (key, d),
        "layers/attention/v/kernel": (key, d),
        "layers/attention/o/kernel": (d, query),
        "layers/mlp_norm/scale": (d,),
        "layers/mlp/gate/kernel": (f, d),
        "layers/mlp/up/kernel": (f, d),
        "layers/mlp/down/kernel": (d, f),
        "final_norm/scale": (d,),
    }
    if cfg.attention_bias:
        shapes |= {f"layers/attention/{n}/bias": (w,) for n, w in zip("qkv", (query, key, key))}
    if cfg.qk_norm:
        shapes |= {f"layers/attention/{n}_norm/scale": (h,) for n in "qk"}
    if not cfg.tie_embeddings:
        shapes["head/kernel"] = (cfg.vocab, d)
    return tuple(_leaf(path, shape, cfg.layers) for path, shape in shapes.items())


def _leaf(path: str, shape: tuple[int, ...], layers: int) -> Leaf:
    suffix = ".bias" if path.endswith("/bias") else ".weight"
    is_stacked = path.startswith("layers/")
    huggingface, gguf = (
        tuple(name.format(i) + suffix for i in range(layers if is_stacked else 1))
        for name in _NAMES[path]
    )
    return Leaf(path, shape, layers if is_stacked else None, huggingface, gguf)


ALL = slice(None)


class WeightsFile(Protocol):
    """The interface of a checkpoint that `read_params` reads, whatever its format."""

    naming: str  # the attribute of `Leaf` with its tensor names: "huggingface" or "gguf"

    def names(self) -> set[str]:
        """The names of its tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it; raises ValueError if there is none."""

    def read(self, name: str, rows: slice = ALL) -> np.ndarray:
        """One tensor, or rows of it, in a float dtype; raises ValueError if there is none."""

    def file(self, name: str) -> str:
        """The path of the file that should hold a tensor, for error messages."""


def read_params(cfg: DecoderConfig, checkpoint: WeightsFile, dtype) -> dict:
    """Reads a checkpoint, a few rows of a tensor at a time, into freshly stacked arrays.

    Under a mesh of several devices (`jax.set_mesh`) a process reads only the parts that its own
    devices hold, leaf by leaf. Beyond the result itself, one leaf at most is in the memory of the
    host. Every shape is compared with the config's before anything is allocated.

    Args:
      cfg: the decoder.
      checkpoint: an open checkpoint.
      dtype: of kernels, biases and embeddings; norm scales are float32.

    Returns:
      The `params` tree, nested dicts of numpy arrays; under a mesh of arrays that it shards.

    Raises:
      ValueError: a tensor is missing, has the wrong shape or, in the parts that are read, a value
        that is not finite, or the checkpoint holds one that the decoder does not use.
    """
    check_shapes(cfg, checkpoint)
    params = {}
    for leaf in leaves(cfg):
        names, target = getattr(leaf, checkpoint.naming), np.float32 if leaf.is_norm else dtype
        if leaf.layers is None:
            params[leaf.path] = _read_leaf(leaf, leaf.path, names, checkpoint, target)
            continue
        for stack, layers in cfg.stacks.items():
            path, chosen = leaf.path.replace("layers", stack, 1), names[layers.start : layers.stop]
            params[path] = _read_leaf(leaf, path, chosen, checkpoint, target)
    return traverse_util.unflatten_dict(params, sep="/")


def _read_leaf(leaf: Leaf, path: str, names: Sequence[str], checkpoint: WeightsFile, dtype):
    """The array at `path` of `params`, made of the tensors `names`; split by the mesh, if any."""
    shape = leaf.shape[::-1] if leaf.is_transposed else leaf.shape
    shape = shape if leaf.layers is None else (len(names), *shape)
    mesh = jax.sharding.get_mesh()
    if mesh.empty or mesh.size == 1:
        part = _Part.empty(leaf, shape, (ALL,) * len(shape), dtype)
        _read_parts([part], leaf, names, checkpoint)
        return part.array
    sharding = NamedSharding(mesh, spec_of(f"params/{path}", shape, mesh))
    indices = {str(x): x for x in sharding.addressable_devices_indices_map(shape).values()}
    parts = {name: _Part.empty(leaf, shape, index, dtype) for name, index in indices.items()}
    _read_parts(parts.values(), leaf, names, checkpoint)
    return jax.make_array_from_callback(shape, sharding, lambda x: parts[str(x)].array)


@dataclasses.dataclass(frozen=True)
class _Part:
    """A part of a leaf, to be read.

    Attributes:
      array: in the layout of `params`.
      tensors: the same memory in that of the checkpoint, [tensors, rows, ...].
      rows, columns: what it has of each tensor.
    """

    array: np.ndarray
    tensors: np.ndarray
    rows: range
    columns: tuple[slice, ...]

    @classmethod
    def empty(cls, leaf: Leaf, shape: tuple[int, ...], index: tuple[slice, ...], dtype) -> "_Part":
        """The part at an index of the whole leaf, which has this shape; all layers are in it."""
        array = _aligned_empty(np.broadcast_to(0, shape)[index].shape, dtype)
        tensors, of_tensor = (array, index[1:]) if leaf.layers else (array[None], index)
        if leaf.is_transposed:
            tensors, of_tensor = tensors.swapaxes(1, 2), of_tensor[::-1]
        return cls(array, tensors, range(leaf.shape[0])[of_tensor[0]], of_tensor[1:])


def _read_parts(
    parts: Iterable[_Part], leaf: Leaf, names: Sequence[str], checkpoint: WeightsFile
) -> None:
    """Reads the tensors of a leaf into its parts, those of the same rows together."""
    by_rows = collections.defaultdict(list)
    for part in parts:
        by_rows[part.rows].append(part)
    step = max(1, CHUNK // math.prod(leaf.shape[1:]))
    for (i, name), (rows, same_rows) in itertools.product(enumerate(names), by_rows.items()):
        for start in range(0, len(rows), step):
            chosen = rows[start : start + step]
            read = checkpoint.read(name, slice(chosen.start, chosen.stop))
            for part in same_rows:
                target = part.tensors[i, start : start + step]
                with np.errstate(over="ignore"):  # overflow becomes infinity, which is refused
                    target[...] = read[(ALL, *part.columns)]
                if not is_finite(target):
                    raise ValueError(
                        f"tensor {name!r} in {checkpoint.file(name)} holds NaN, infinity or a "
                        f"value too large for {target.dtype.name}; download it again, or repair "
                        "the model"
                    )


def _aligned_empty(shape: tuple[int, ...], dtype) -> np.ndarray:
    """As `np.empty`; a CPU device takes it for its own without a copy."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def split_stacks(cfg: DecoderConfig, params: dict) -> dict:
    """Splits the stack `params["layers"]` into the stacks of `cfg.stacks`, as views.

    Args:
      cfg: the decoder.
      params: with all layers stacked in `layers`, leaves [layers, ...].
    """
    stacked = params["layers"]
    rest = {name: leaf for name, leaf in params.items() if name != "layers"}
    return rest | {
        name: jax.tree.map(lambda x, r=layers: x[r.start : r.stop], stacked)
        for name, layers in cfg.stacks.items()
    }


def join_stacks(cfg: DecoderConfig, params: dict) -> dict:
    """The inverse of `split_stacks`; concatenates."""
    rest = {name: leaf for name, leaf in params.items() if name not in cfg.stacks}
    stacks = [params[name] for name in cfg.stacks]
    return rest | {"layers": jax.tree.map(lambda *x: jnp.concatenate(x), *stacks)}


class ParamsInMemory:
    """The `params` of a decoder, all layers stacked in `layers`, as a `WeightsFile`."""

    naming = "huggingface"

    def __init__(self, cfg: DecoderConfig, params: dict):
        """Takes `params` as `read_params` gives them."""
        stacked = traverse_util.flatten_dict(join_stacks(cfg, params), sep="/")
        self._leaves = {
            name: (leaf, i, stacked[leaf.path])
            for leaf in leaves(cfg)
            for i, name in enumerate(leaf.huggingface)
        }

    def names(self) -> set[str]:
        """The tensors of the decoder."""
        return set(self._leaves)

    def file(self, name: str) -> str:
        """Where a tensor lies."""
        return "the model in memory"

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._leaves[name][0].shape

    def read(self, name: str, rows: slice = ALL) -> np.ndarray:
        """A tensor or rows of it, in the dtype of `params`."""
        leaf, i, array = self._leaves[name]
        tensor = np.asarray(array if leaf.layers is None else array[i])
        return (tensor.T if leaf.is_transposed else tensor)[rows]


def check_shapes(cfg: DecoderConfig, checkpoint: WeightsFile) -> None:
    """Compares the shapes in the checkpoint with those of the config.

    Raises:
      ValueError: one is missing, differs, or is not used by the decoder.
    """
    used = set()
    for leaf in leaves(cfg):
        for name in getattr(leaf, checkpoint.naming):
            if (shape := checkpoint.shape(name)) != leaf.shape:
                raise ValueError(
                    f"tensor {name!r} in {checkpoint.file(name)} has shape {list(shape)}, the "
                    f"config asks for {list(leaf.shape)}; give the config and weights of one model"
                )
            used.add(name)
    _reject_unknown(cfg, checkpoint, used)


def is_finite(array: np.ndarray) -> bool:
    """Whether no entry is NaN or infinite, in one pass and without a copy.

    Max and min propagate both. They are slow in bfloat16, so its bits are compared instead: from
    0x7F80 on, or 0xFF80 with the sign, the exponent is all ones.
    """
    if array.dtype == jnp.bfloat16:
        positive, negative = array.view(np.int16).max(), array.view(np.uint16).max()
        return bool(positive < 0x7F80 and negative < 0xFF80)
    return bool(np.isfinite(array.max()) and np.isfinite(array.min()))


def _reject_unknown(cfg: DecoderConfig, checkpoint: WeightsFile, used: set[str]):
    """Raises a ValueError for a tensor that the decoder would silently ignore."""
    derived = {"rope_freqs.weight"}  # follows from the config
    if cfg.tie_embeddings:
        derived |= {"lm_head.weight", "output.weight"}  # a copy of the embedding
    unknown = sorted(
        n for n in checkpoint.names() - used - derived if not n.endswith("rotary_emb.inv_freq")
    )
    if unknown:
        first = ", ".join(map(named, unknown[:4])) + (", ..." if len(unknown) > 4 else "")
        raise ValueError(
            f"{checkpoint.file(unknown[0])} holds {len(unknown)} tensors that this decoder does "
            f"not use ({first}); its config has layers={cfg.layers}, "
            f"attention_bias={cfg.attention_bias}, qk_norm={cfg.qk_norm}"
        )
