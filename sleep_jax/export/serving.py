"""What servers accept of an exported model: on how many devices, in which types.

The rules are those of the programs, read in their sources (November 2026):

  - vLLM and SGLang split attention by heads and FFNs by hidden units: both numbers must be
    multiples of the tensor-parallel size; key-value heads are split, or repeated where there are
    fewer (`LlamaAttention`, `LlamaMLP` in vllm/model_executor/models/llama.py and
    sglang/srt/models/llama.py).
  - FP8 in blocks of 128: what a device has of the rows of gate, up, query and key, and of the
    inputs of down and of the output projection, must be multiples of 128
    (`validate_fp8_block_shape` in both).
  - Marlin, the kernel of GPTQ and AWQ, with groups of 128: a device's inputs of every matrix must
    be multiples of 128, its outputs of 64 (`verify_marlin_supports_shape` in both). Newer versions
    of vLLM pad other shapes when they load, and need only whole groups.
  - llama.cpp: rows of K-quants are blocks of 256; where they are not, the matrix is stored in a
    larger type with blocks of 32, and where these do not fit, in F16 (`tensor_type_fallback` in
    src/llama-quant.cpp).
"""

import pathlib
from collections.abc import Sequence

from sleep_jax.interop import gguf, huggingface
from sleep_jax.models.decoder_config import DecoderConfig

SIZES = range(1, 17)
FP8_BLOCK, MARLIN_INPUTS, MARLIN_OUTPUTS = 128, 128, 64
K_QUANT, LEGACY_QUANT = 256, 32


def parallel_sizes(cfg: DecoderConfig, weights: str = "16 bit") -> list[int]:
    """The tensor-parallel sizes, to 16, at which vLLM and SGLang load a model.

    Args:
      cfg: of the widened decoder, without memory.
      weights: `16 bit`, `FP8 blocks` or `Marlin`.
    """
    return [n for n in SIZES if _splits(cfg, n) and _FITS[weights](cfg, n)]


def _splits(cfg: DecoderConfig, n: int) -> bool:
    keys = cfg.kv_heads % n == 0 if cfg.kv_heads >= n else n % cfg.kv_heads == 0
    return keys and cfg.heads % n == 0 and cfg.hidden % n == 0


def _share(cfg: DecoderConfig, n: int) -> tuple[int, int, int]:
    """A device's hidden units, and rows of query and key."""
    keys = max(1, cfg.kv_heads // n)
    return cfg.hidden // n, cfg.heads // n * cfg.head_dim, keys * cfg.head_dim


def _fits_fp8(cfg: DecoderConfig, n: int) -> bool:
    return all(size % FP8_BLOCK == 0 for size in _share(cfg, n))


def _fits_marlin(cfg: DecoderConfig, n: int) -> bool:
    hidden, query, key = _share(cfg, n)
    inputs, outputs = (cfg.width, hidden, query), (cfg.width, 2 * hidden, query + 2 * key)
    return all(x % MARLIN_INPUTS == 0 for x in inputs) and all(
        x % MARLIN_OUTPUTS == 0 for x in outputs
    )


_FITS = {"16 bit": lambda cfg, n: True, "FP8 blocks": _fits_fp8, "Marlin": _fits_marlin}


def k_quant(width: int) -> str:
    """What `llama-quantize` makes of `ffn_down` of this FFN width, when asked for a K-quant."""
    if width % K_QUANT == 0:
        return "in it"
    return "in a larger type, of blocks of 32" if width % LEGACY_QUANT == 0 else "as F16"


def serving_lines(folder: pathlib.Path) -> list[str]:
    """What servers accept of an exported folder, in words; of slots alone nothing is said."""
    if (folder / "config.json").exists():
        cfg = huggingface.decoder_config(huggingface.read_config(folder))
        sizes = {weights: _listed(parallel_sizes(cfg, weights)) for weights in _FITS}
        return [
            f"Served by vLLM and SGLang on {sizes['16 bit']} (tensor parallel); in FP8 blocks on "
            f"{sizes['FP8 blocks']}, with GPTQ or AWQ (Marlin) on {sizes['Marlin']}"
        ]
    if files := [*folder.glob("*.gguf")]:
        width = gguf.decoder_config(gguf.GGUFFile(files[0])).hidden
        return [
            f"Asked for a K-quant, llama-quantize stores ffn_down, {width:,} wide, {k_quant(width)}"
        ]
    return []


def _listed(sizes: Sequence[int]) -> str:
    if not sizes:
        return "none"
    *most, last = map(str, sizes)
    return f"{', '.join(most)} or {last} devices" if most else f"{last} device{'s' * (last != '1')}"
