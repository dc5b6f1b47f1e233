"""A run as a GGUF file, its memory absorbed."""

import contextlib
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator

import gguf
import numpy as np

from sleep_jax.experiment import template_options
from sleep_jax.export.hf import read_again
from sleep_jax.export.options import Options, widths
from sleep_jax.export.programs import LlamaCppProgram, Program
from sleep_jax.export.run_model import RunModel
from sleep_jax.interop.gguf import GGUFFile
from sleep_jax.interop.gguf_writer import check_base_kinds, write_gguf
from sleep_jax.interop.llama_cpp import find_library

_DOWN = re.compile(r"blk\.\d+\.ffn_down\.weight")


class GGUFExport:
    """A folder with one file; attributes and methods as of `Export`."""

    def __init__(self, model: RunModel, options: Options):
        self._base, self._absorbed = model.base, model.absorbed(options.pad)
        is_gguf = isinstance(model.base.weights, GGUFFile)
        self.precision = options.type or ("base" if is_gguf else "Q8_0")
        self._kind = None
        if self.precision == "base":
            check_base_kinds(self._absorbed)
            self.precision = model.base.weights.tensor("blk.0.ffn_down.weight").kind.name
        else:
            self._kind = gguf.GGMLQuantizationType[self.precision]
        self._library = find_library(options.llama_cpp) if options.questions else None
        self.has_base, self.is_merged = self._library is not None, False
        self.reference_dtype = np.dtype(model.base.cfg.dtype).name
        # At most two bytes a number; another base than a GGUF file is copied for the noise floor.
        self.size = 2 * self._absorbed.numbers * (1 if self._kind is None else 2)
        self.tensors = sum(leaf.layers or 1 for leaf in self._absorbed.leaves)
        name = pathlib.Path(model.base.settings.model.name.rstrip("/")).name.removesuffix(".gguf")
        self._title, self._file = f"{name}, having slept", f"{name}-{self.precision}.gguf"

    def write(self, folder: pathlib.Path, on_tensor: Callable[[], None]) -> None:
        how = (self._base.tokenizer, self._kind, self._title, on_tensor)
        write_gguf(folder / self._file, self._absorbed, *how)

    @contextlib.contextmanager
    def program(self, folder: pathlib.Path) -> Iterator[Program]:
        file, hidden = folder / self._file, self._base.cfg.hidden
        if self._library is None:
            yield read_again(file, template_options(self._base.settings))
            return
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            if self._kind is None:
                base = self._base.weights.path
            else:
                base = pathlib.Path(scratch) / "base.gguf"
                shutil.copyfile(file, base)
                zero_units(base, hidden)
            yield LlamaCppProgram(self._library, file, base, self._base.tokenizer)

    def description(self, name: str) -> tuple[str, list[str]]:
        facts = [widths(self._absorbed, self.precision)]
        if self._kind is None:
            facts += ["", "The tensors of the base keep their bytes; what was added follows them."]
        return f"```\nllama-cli -m {name}/{self._file}\n```", facts


def zero_units(path: pathlib.Path, hidden: int) -> None:
    """Sets the FFN's units of a GGUF file from `hidden` on to zero, in place: its base is left."""
    file = GGUFFile(path)
    data = np.memmap(path, mode="r+")
    for name in filter(_DOWN.fullmatch, file.names()):
        tensor = file.tensor(name)
        block, block_bytes = gguf.GGML_QUANT_SIZES[tensor.kind]
        rows = data[tensor.start : tensor.start + tensor.size].reshape(tensor.shape[0], -1)
        rows[:, hidden // block * block_bytes :] = 0
    data.flush()
