"""A run with `memory.expert="lora"` as an adapter for PEFT: all its slots, side by side.

A folder with `adapter_config.json` and `adapter_model.safetensors`, as PEFT writes them:
https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from sleep_jax.export.card import base_name
from sleep_jax.export.hf import template_variables, written_base
from sleep_jax.export.options import Options
from sleep_jax.export.programs import OwnProgram, PeftProgram, Program
from sleep_jax.export.run_model import RunModel
from sleep_jax.export.verify import widened
from sleep_jax.interop.gguf import GGUFFile
from sleep_jax.interop.low_rank import Adapter
from sleep_jax.interop.safetensors_writer import DTYPES, Tensor, write_file
from sleep_jax.interop.tensors import join_stacks
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.memory.slots import FFN
from sleep_jax.models.decoder_config import DecoderConfig, LoraConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = "base_model.model.model.layers.{}.mlp.{}_proj.lora_{}.weight"


class PeftExport:
    """A folder with an adapter; attributes and methods as of `Export`."""

    def __init__(self, model: RunModel, options: Options):
        self._model, self._adapter = model, model.adapter()
        run_dtype = np.dtype(model.base.cfg.dtype).name
        self.precision = options.dtype or run_dtype
        self.reference_dtype = "float32" if self.precision == "float32" else run_dtype
        numbers = sum(x.size for x in self._adapter.terms.values())
        self.size = numbers * DTYPES[self.precision][0].itemsize
        self.tensors = len(_tensors(self._adapter))
        self.has_base, self.is_merged = PeftProgram.is_installed(), False

    def write(self, folder: pathlib.Path, on_tensor: Callable[[], None]) -> None:
        base = base_name(self._model.base.settings.model.name)
        write_adapter(folder, self._adapter, base, self._model.base.cfg, self.precision, on_tensor)

    @contextlib.contextmanager
    def program(self, folder: pathlib.Path) -> Iterator[Program]:
        base = self._model.base
        if self.has_base:
            with written_base(base, folder, self.reference_dtype) as path:
                yield PeftProgram(path, folder, template_variables(base.settings))
            return
        cfg = base.cfg
        params = base.params(self.reference_dtype, self._model.base_fingerprint)
        lora, terms = read_adapter(folder, cfg)
        adapted = cfg.replace(memory=MemoryConfig(), lora=lora, dtype=jnp.float32)
        variables = widened({"params": join_stacks(cfg, params), "lora": terms})
        yield OwnProgram(adapted, variables, None, base.tokenizer)

    def description(self, name: str) -> tuple[str, list[str]]:
        base = base_name(self._model.base.settings.model.name)
        lines = [
            "```python",
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM",
            "",
            f'base = AutoModelForCausalLM.from_pretrained("{base}", dtype="auto")',
            f'model = PeftModel.from_pretrained(base, "{name}")',
            "```",
        ]
        fact = (
            f"One LoRA adapter of rank {self._adapter.rank}, all slots side by side, beside gate, "
            f"up and down of {len(self._adapter.carriers)} layers, stored as {self.precision}."
        )
        facts = [fact]
        if isinstance(self._model.base.weights, GGUFFile):
            facts += [
                "",
                "It was learnt beside the weights of a GGUF file "
                f"(`{pathlib.Path(self._model.base.weights.path).name}`), and compared on these: "
                f"where {base} has others, by as much as the file was quantized, so does the sum.",
            ]
        return "\n".join(lines), facts


def write_adapter(
    folder: pathlib.Path,
    adapter: Adapter,
    base: str,
    cfg: DecoderConfig,
    dtype: str,
    on_tensor: Callable[[], None] = lambda: None,
) -> None:
    """Writes an adapter.

    Args:
      folder: that exists.
      adapter: that is written.
      base: name of its base.
      cfg: of the decoder.
      dtype: of the weights, a key of `DTYPES`.
      on_tensor: called after every tensor.
    """
    write_file(folder / WEIGHTS, _tensors(adapter), dtype, on_tensor)
    is_everywhere = len(adapter.carriers) == cfg.layers
    alpha = adapter.scale * adapter.rank  # PEFT's factor is lora_alpha / r
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,  # vLLM expects a whole number
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": [f"{name}_proj" for name in FFN],
        "layers_to_transform": None if is_everywhere else [*adapter.carriers],
        "layers_pattern": None if is_everywhere else "layers",
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
    (folder / CONFIG).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _tensors(adapter: Adapter) -> list[Tensor]:
    """A^T [R, in] and B^T [out, R] of every matrix that is changed."""
    tensors = []
    for layer in adapter.carriers:
        for name in FFN:
            for side, matrix in zip("AB", adapter.of_layer(layer, name)):
                path = _NAME.format(layer, name, side)
                tensors.append(Tensor(path, matrix.T.shape, lambda x=matrix: iter((x.T,))))
    return tensors


def read_adapter(folder: pathlib.Path, cfg: DecoderConfig) -> tuple[LoraConfig, dict]:
    """An adapter as `write_adapter` wrote it, as the collection `lora` of an unsplit decoder.

    Args:
      folder: of the adapter.
      cfg: of the decoder.

    Returns:
      (config, lora): its config, and {a [layers, in, R], b [layers, R, out]} of each matrix.
    """
    fields = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    weights = load_file(folder / WEIGHTS)
    config = LoraConfig(fields["r"], float(fields["lora_alpha"]), FFN)
    mlp = {}
    for name in FFN:
        wide = (cfg.hidden, cfg.width) if name == "down" else (cfg.width, cfg.hidden)
        sides = {"A": (config.rank, wide[0]), "B": (wide[1], config.rank)}
        mlp[name] = {}
        for side, shape in sides.items():
            zeros = np.zeros(shape, np.float32)
            layers = [weights.get(_NAME.format(i, name, side), zeros).T for i in range(cfg.layers)]
            mlp[name][side.lower()] = np.stack(layers).astype(np.float32)
    return config, {"layers": {"mlp": jax.tree.map(jnp.asarray, mlp)}}
