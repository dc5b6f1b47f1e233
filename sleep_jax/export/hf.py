"""A run in Hugging Face layout, its memory absorbed."""

import contextlib
import datetime
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sleep_jax.config import RunConfig
from sleep_jax.experiment import template_options
from sleep_jax.export.options import Options, widths
from sleep_jax.export.programs import (
    OwnProgram,
    Program,
    ProgramBesideBase,
    TransformersProgram,
)
from sleep_jax.export.run_model import Base, RunModel
from sleep_jax.export.verify import rounded_anew, widened
from sleep_jax.interop import huggingface
from sleep_jax.interop.absorb import Units
from sleep_jax.interop.absorbed_model import AbsorbedModel
from sleep_jax.interop.load import load_model
from sleep_jax.interop.low_rank import MergedModel
from sleep_jax.interop.safetensors import SafetensorsFolder
from sleep_jax.interop.safetensors_writer import DTYPES, Tensor, write_shards
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.interop.tokenizer_files import write_tokenizer


class HuggingFaceExport:
    """Safetensors, config, tokenizer; attributes and methods as of `Export`."""

    def __init__(self, model: RunModel, options: Options):
        self._base, self._shard_bytes = model.base, options.shard_bytes
        self.is_merged = model.base.cfg.memory.expert == "lora"
        self._written = model.merged() if self.is_merged else model.absorbed(options.pad)
        run_dtype = np.dtype(model.base.cfg.dtype).name
        self.precision = options.dtype or run_dtype
        self.reference_dtype = "float32" if self.precision == "float32" else run_dtype
        self.size = self._written.numbers * DTYPES[self.precision][0].itemsize
        self.tensors = len(_tensors(self._written))
        self.has_base = TransformersProgram.is_installed()

    def write(self, folder: pathlib.Path, on_tensor: Callable[[], None]) -> None:
        tokenizer, how = self._base.tokenizer, (self.precision, self._shard_bytes)
        write_hugging_face(folder, self._written, tokenizer, *how, on_tensor)

    @contextlib.contextmanager
    def program(self, folder: pathlib.Path) -> Iterator[Program]:
        hidden, settings = self._base.cfg.hidden, self._base.settings
        if not self.has_base:
            rounded_to = self.precision if self.is_merged else None
            yield read_again(folder, template_options(settings), rounded_to)
            return
        how = (hidden, template_variables(settings))
        program = TransformersProgram(folder, *how)
        if not self.is_merged:
            yield program
            return
        with written_base(self._base, folder, self.reference_dtype) as base:
            yield ProgramBesideBase(program, TransformersProgram(base, *how))

    def description(self, name: str) -> tuple[str, list[str]]:
        lines = [
            "```python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
            f'model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto")',
            "```",
        ]
        if isinstance(self._written, AbsorbedModel):
            return "\n".join(lines), [widths(self._written, self.precision)]
        rank = self._written.adapter.rank
        fact = f"Terms of rank {rank} are merged into the FFNs, stored as {self.precision}."
        return "\n".join(lines), [fact]


def template_variables(settings: RunConfig) -> dict[str, Any]:
    """The variables of the chat template that transformers is given."""
    today = datetime.date.fromisoformat(settings.model.date).strftime("%d %b %Y")
    return {"enable_thinking": settings.model.thinking, "date_string": today}


@contextlib.contextmanager
def written_base(base: Base, folder: pathlib.Path, dtype: str) -> Iterator[pathlib.Path]:
    """A base as it is, in Hugging Face layout, in a folder that is deleted afterwards.

    Args:
      base: of a run.
      folder: in which the other is made.
      dtype: of the weights, a key of `DTYPES`.
    """
    model = AbsorbedModel(base.cfg, base.weights, Units((), 0, 0, base.cfg.width))
    with tempfile.TemporaryDirectory(dir=folder) as made:
        path = pathlib.Path(made)
        write_hugging_face(path, model, base.tokenizer, dtype, Options("hf").shard_bytes)
        yield path


def write_hugging_face(
    folder: pathlib.Path,
    model: AbsorbedModel | MergedModel,
    tokenizer: Tokenizer,
    dtype: str,
    shard_bytes: int,
    on_tensor: Callable[[], None] = lambda: None,
) -> None:
    """Writes a model in Hugging Face layout: weights, `config.json`, tokenizer, generation config.

    Args:
      folder: that exists.
      model: that is written.
      tokenizer: of the model.
      dtype: of the weights, a key of `DTYPES`.
      shard_bytes: most of a file of weights.
      on_tensor: called after every tensor.

    Raises:
      ValueError: as `write_shards`.
    """
    write_shards(folder, _tensors(model), dtype, shard_bytes, on_tensor)
    source = model.base.folder if isinstance(model.base, SafetensorsFolder) else None
    if source is None:
        fields = huggingface.config_fields(model.cfg, dtype)
    else:
        fields = dict(huggingface.read_config(source))
        fields["intermediate_size"] = model.cfg.hidden
        fields["dtype" if "dtype" in fields else "torch_dtype"] = dtype
    fields["eos_token_id"] = [*tokenizer.eos_ids]
    fields.setdefault("bos_token_id", tokenizer.bos_id)
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    write_tokenizer(tokenizer, folder, source, model.cfg.max_position)


def _tensors(model: AbsorbedModel | MergedModel) -> list[Tensor]:
    return [
        Tensor(name, leaf.shape, lambda leaf=leaf, i=i: model.rows(leaf, i))
        for leaf in model.leaves
        for i, name in enumerate(leaf.huggingface)
    ]


def read_again(
    path: pathlib.Path, options: dict[str, Any], rounded_to: str | None = None
) -> OwnProgram:
    """A written model read by this program, which computes in float32 with the weights as stored.

    Args:
      path: a folder in Hugging Face layout, or a GGUF file.
      options: of the chat template, as for `load_model`.
      rounded_to: in place of a base it has itself, its FFNs rounded anew to this precision.
    """
    cfg, params, tokenizer = load_model(str(path), dtype="float32", **options)
    variables, base = widened({"params": params}), None
    if rounded_to is not None:
        base = cfg, {"params": rounded_anew(variables["params"], rounded_to)}
    return OwnProgram(cfg, variables, base, tokenizer)
