"""A pre-trained decoder by name: its config, its weights on the host and its tokenizer."""

import pathlib

import jax.numpy as jnp

from sleep_jax.fields import read_object, shown
from sleep_jax.interop import huggingface
from sleep_jax.interop.chat_template import DATE
from sleep_jax.interop.resolve import resolve
from sleep_jax.interop.safetensors import SafetensorsFolder
from sleep_jax.interop.tensors import WeightsFile, read_params
from sleep_jax.interop.tiny import byte_tokenizer
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.interop.tokenizer_files import ID_FILES, ids_of, read_tokenizer
from sleep_jax.models.decoder_config import DecoderConfig


def load_model(
    name: str,
    *,
    dtype,
    cache_dir=None,
    thinking: bool = False,
    date: str = DATE,
    **overrides,
) -> tuple[DecoderConfig, dict, Tokenizer]:
    """Loads a Hugging Face folder or a GGUF file.

    Args:
      name: what `resolve` accepts: a folder, a .gguf file, a Hub name, or `SmolLM2-135M-Instruct`.
      dtype: float32 or bfloat16, of the weights (norm scales stay float32) and of the config.
      cache_dir: where downloads are kept; see `resolve`.
      thinking, date: of its chat template, as for `ChatTemplate`.
      **overrides: other fields of `DecoderConfig`, e.g. `memory`, `lora`, `remat`, `scan_layers`.

    Returns:
      The config, the `params` collection as numpy arrays with stacked layers, and the tokenizer.

    Raises:
      FileNotFoundError: there is no such model, or it lacks a part.
      ConnectionError: it is not on this machine and could not be downloaded.
      ValueError: the model is not supported, a file is damaged or lacks a tensor, or the tokenizer
        has ids beyond the embedding.
    """
    dtypes = {jnp.dtype(d): d for d in (jnp.float32, jnp.bfloat16)}
    if jnp.dtype(dtype) not in dtypes:
        raise ValueError(f"dtype={jnp.dtype(dtype).name!r}; choose 'float32' or 'bfloat16'")
    dtype = dtypes[jnp.dtype(dtype)]
    cfg, checkpoint, tokenizer = open_model(name, cache_dir=cache_dir, thinking=thinking, date=date)
    cfg = cfg.replace(dtype=dtype, **overrides)
    return cfg, read_params(cfg, checkpoint, jnp.dtype(dtype)), tokenizer


def open_model(
    name: str, *, cache_dir=None, thinking: bool = False, date: str = DATE
) -> tuple[DecoderConfig, WeightsFile, Tokenizer]:
    """The same as `load_model` with the weights still in their files.

    Args:
      name, cache_dir, thinking, date: as for `load_model`.

    Returns:
      The config, the open checkpoint and the tokenizer.

    Raises:
      FileNotFoundError, ConnectionError, ValueError: as `load_model`.
    """
    path = resolve(name, cache_dir=cache_dir)
    if path.suffix == ".gguf":
        # A local import: the gguf package is needed only for GGUF files.
        from sleep_jax.interop import gguf, gguf_tokenizer

        checkpoint = gguf.GGUFFile(path)
        cfg = gguf.decoder_config(checkpoint)
        tokenizer = gguf_tokenizer.read_tokenizer(checkpoint, thinking=thinking, date=date)
    else:
        checkpoint = SafetensorsFolder(path)
        cfg = huggingface.decoder_config(huggingface.read_config(path))
        tokenizer = read_tokenizer(path, thinking=thinking, date=date)
    check_token_ids(tokenizer, cfg, path)
    return cfg, checkpoint, tokenizer


def check_token_ids(tokenizer: Tokenizer, cfg: DecoderConfig, path: pathlib.Path) -> None:
    """Checks that every token id has a row of the embedding; others would read its last row.

    Args:
      tokenizer, cfg: the tokenizer and the decoder config of one model.
      path: its folder or file, for errors.

    Raises:
      ValueError: an id of the tokenizer is beyond the embedding.
    """
    ids = tokenizer.backend.get_vocab(with_added_tokens=True)
    largest = max(ids.values())
    if largest >= cfg.vocab:
        token = shown(tokenizer.backend.id_to_token(largest))
        raise ValueError(
            f"{path}: its tokenizer has {len(ids)} tokens with ids up to {largest} ({token}), the "
            f"embedding {cfg.vocab} rows; give the tokenizer of this model, or resize its embedding"
        )
    for name, token_id in (("eos", max(tokenizer.eos_ids)), ("pad", tokenizer.pad_id)):
        if token_id >= cfg.vocab:
            field = f"{name}_token_id"
            raise ValueError(
                f"{_file_with(path, field, token_id)}: {field}={token_id} is "
                f"beyond the {cfg.vocab} rows of the embedding; give the id of a token"
            )


def _file_with(path: pathlib.Path, field: str, token: int) -> pathlib.Path:
    """The file in a model folder whose `field` holds an id; the folder where none does."""
    for name in ID_FILES:
        file = path / name
        if file.exists() and token in ids_of(read_object(file), field):
            return file
    return path


def local_tokenizer(name: str, *, thinking: bool = False, date: str = DATE) -> Tokenizer | None:
    """The tokenizer of a model, without its weights; None where it is not on this machine.

    Args:
      name: as for `load_model`, or `tiny`.
      thinking, date: as for `load_model`.
    """
    if name == "tiny":
        return byte_tokenizer(thinking=thinking, date=date)
    try:
        path = resolve(name, may_fetch=False)
    except (OSError, ValueError):
        return None
    if path.suffix == ".gguf":
        from sleep_jax.interop import gguf, gguf_tokenizer

        return gguf_tokenizer.read_tokenizer(gguf.GGUFFile(path), thinking=thinking, date=date)
    is_present = (path / "tokenizer.json").exists()
    return read_tokenizer(path, thinking=thinking, date=date) if is_present else None
