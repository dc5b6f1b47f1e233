"""Writes a run in another format, compares it with the run, and only then gives it its name."""

import contextlib
import dataclasses
import gc
import json
import math
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator

import gguf
import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.errors import UnrecoverableError
from sleep_jax.experiment import template_options
from sleep_jax.export import verify
from sleep_jax.export.card import card
from sleep_jax.export.delta import WEIGHTS, load_delta, write_delta
from sleep_jax.export.programs import (
    LlamaCppProgram,
    OwnProgram,
    Program,
    TransformersProgram,
    without_units,
)
from sleep_jax.export.questions import questions_of
from sleep_jax.export.run_model import RunModel
from sleep_jax.interop import huggingface, llama_cpp
from sleep_jax.interop.absorbed_model import AbsorbedModel
from sleep_jax.interop.gguf import GGUFFile
from sleep_jax.interop.gguf_writer import FILE_TYPES, check_base_kinds, write_gguf
from sleep_jax.interop.load import load_model
from sleep_jax.interop.safetensors import SafetensorsFolder
from sleep_jax.interop.safetensors_writer import DTYPES, Tensor, write_shards
from sleep_jax.interop.tokenizer_files import write_tokenizer
from sleep_jax.runtime.progress import phase_progress

FORMATS = ("hf", "gguf", "delta")
TYPES = ("base", *(kind.name for kind in FILE_TYPES))
CARD = "README.md"
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class ExportRefused(UnrecoverableError):
    """An export differs from its run; it is left under another name."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How to export.

    Attributes:
      to: one of `FORMATS`.
      dtype: of hf, a key of `DTYPES`; "": the run's.
      type: of gguf, one of `TYPES`; "": `base` where the base is a GGUF file, else `Q8_0`.
      pad: the FFN's width becomes a multiple of it.
      shard_bytes: most of a safetensors file.
      questions: by which the export is compared with the run, at most; 0: it is not.
      llama_cpp: where its library lies; None: where it is usually found.
    """

    to: str
    dtype: str = ""
    type: str = ""
    pad: int = 256
    shard_bytes: int = 5 * 10**9
    questions: int = 50
    llama_cpp: str | None = None


def bytes_of(text: str) -> int:
    """The number of bytes in a text such as `5GB` or `800MB`.

    Raises:
      ValueError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B?)", text.strip().upper())
    unit = match and match[2] + ("" if match[2].endswith("B") or not match[2] else "B")
    if not match or (size := int(float(match[1]) * _UNITS.get(unit.lstrip("B"), 1))) < 1:
        raise ValueError(f"--shard_size={text!r}; give a size such as 5GB or 800MB")
    return size


def export(workdir: str, folder: str, options: Options) -> verify.Verification | None:
    """Exports a run.

    Args:
      workdir: of the run.
      folder: to be made.
      options: how.

    Returns:
      How the export compares with the run; None where it was not asked for.

    Raises:
      ExportRefused: it differs from the run by more than rounding.
      ValueError, OSError: the run cannot be exported so, or the folder cannot be written; says what
        to do.
    """
    target = pathlib.Path(folder).expanduser()
    draft = target.with_name(f"{target.name}.unverified")
    for path in (target, draft):
        if path.exists():
            raise FileExistsError(f"{path} exists; delete it, or give another folder")
    model = RunModel.open(workdir)
    export_format = _FORMATS[options.to](model, options)
    export_format.check()
    library = llama_cpp.find_library(options.llama_cpp) if options.to == "gguf" else None
    _check_disk(target, export_format.size)
    draft.mkdir(parents=True)
    export_format.write(draft)
    checked = None
    if options.questions:
        checked = _verified(model, export_format, draft, options.questions, library)
    text = card(model, options.to, *export_format.description(target.name), checked)
    (draft / CARD).write_text(text, encoding="utf-8")
    if checked and checked.problems:
        raise ExportRefused(
            f"the export is not the model of {workdir}: {'; '.join(checked.problems)}. It is left "
            f"in {draft}"
        )
    draft.rename(target)
    return checked


def _check_disk(target: pathlib.Path, size: int) -> None:
    parent = next(path for path in target.absolute().parents if path.exists())
    if (free := shutil.disk_usage(parent).free) < size:
        raise OSError(f"{target} needs {size / 1e9:.1f} GB, {parent} has {free / 1e9:.1f} GB left")


def _verified(model: RunModel, export_format, draft, count: int, library) -> verify.Verification:
    """The export asked beside the run; one model is in memory at a time."""
    questions = questions_of(model.checkpoint.record["run"], count)
    longest = model.base.settings.evaluation.max_new_tokens
    dtype = export_format.reference_dtype
    with phase_progress("verify", 2 * verify.STEPS, "step") as bar:
        own = verify.run_program(model, dtype)
        run = verify.answers_of(own, questions, longest, None, bar.advance)
        del own
        _free()
        with export_format.program(draft, library) as program:
            other = verify.answers_of(program, questions, longest, run, bar.advance)
        _free()
    return verify.compare(run, other, f"the run in {dtype}", export_format.precision)


def _free() -> None:
    """Gives back what no name holds any more, programs with their constants included."""
    jax.clear_caches()
    gc.collect()


class _HuggingFace:
    """A folder in Hugging Face layout.

    Attributes:
      precision: of the weights.
    """

    def __init__(self, model: RunModel, options: Options):
        self._model, self._options = model, options
        self.precision = options.dtype or np.dtype(model.base.cfg.dtype).name
        self._wide = model.absorbed(options.pad)

    @property
    def size(self) -> int:
        """Bytes, about."""
        return _numbers(self._wide) * DTYPES[self.precision][0].itemsize

    @property
    def reference_dtype(self) -> str:
        """What the run computes in when it is compared."""
        is_exact = self.precision == "float32"
        return "float32" if is_exact else np.dtype(self._model.base.cfg.dtype).name

    def check(self) -> None:
        """Nothing more can be wrong: all decoders that are read can be written."""

    def write(self, folder: pathlib.Path) -> None:
        """Writes everything but the card."""
        write_hugging_face(
            folder,
            self._wide,
            self._model.base.tokenizer,
            self.precision,
            self._options.shard_bytes,
        )

    @contextlib.contextmanager
    def program(self, folder: pathlib.Path, library) -> Iterator[Program]:
        """The export, loaded."""
        hidden = self._model.base.cfg.hidden
        settings = self._model.base.settings.model
        options = template_options(self._model.base.settings)
        if TransformersProgram.is_installed():
            yield TransformersProgram(folder, hidden, _template_variables(settings))
        else:
            yield _own(folder, self.reference_dtype, hidden, options)

    def description(self, name: str) -> tuple[str, list[str]]:
        """(how to use it, facts) for the card."""
        how = "\n".join(
            [
                "```python",
                "from transformers import AutoModelForCausalLM, AutoTokenizer",
                "",
                f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
                f'model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto")',
                "```",
            ]
        )
        return how, _facts(self._wide, self.precision)


class _GGUF:
    """A folder with a GGUF file; attributes and methods as of `_HuggingFace`."""

    def __init__(self, model: RunModel, options: Options):
        self._model, self._wide = model, model.absorbed(options.pad)
        is_gguf = isinstance(model.base.weights, GGUFFile)
        kind = options.type or ("base" if is_gguf else "Q8_0")
        self._kind = None if kind == "base" else gguf.GGMLQuantizationType[kind]
        self.precision = kind
        if self._kind is None and is_gguf:
            leaf = next(x for x in self._wide.leaves if x.path == "layers/mlp/down/kernel")
            self.precision = model.base.weights.tensor(leaf.gguf[0]).kind.name
        self._file = f"{_short(model.base.settings.model.name)}-{self.precision}.gguf"

    @property
    def size(self) -> int:
        """Bytes, at most, with the copy that the noise floor of another base needs."""
        return (2 if self._kind else 1) * _numbers(self._wide) * 2

    @property
    def reference_dtype(self) -> str:
        """As of `_HuggingFace`."""
        return np.dtype(self._model.base.cfg.dtype).name

    def check(self) -> None:
        """Raises ValueError where the base's types cannot be written."""
        if self._kind is None:
            check_base_kinds(self._wide)

    def write(self, folder: pathlib.Path) -> None:
        count = sum(leaf.layers or 1 for leaf in self._wide.leaves)
        name = f"{_short(self._model.base.settings.model.name)}, having slept"
        with phase_progress("write", count, "tensor") as bar:
            write_gguf(
                folder / self._file,
                self._wide,
                self._model.base.tokenizer,
                self._kind,
                name,
                bar.advance,
            )

    @contextlib.contextmanager
    def program(self, folder: pathlib.Path, library) -> Iterator[Program]:
        file, hidden = folder / self._file, self._model.base.cfg.hidden
        if library is None:
            options = template_options(self._model.base.settings)
            yield _own(file, self.reference_dtype, hidden, options)
        elif self._kind is None:
            yield LlamaCppProgram(
                library, file, self._model.base.weights.path, self._model.base.tokenizer
            )
        else:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                bare = pathlib.Path(scratch) / "base.gguf"
                shutil.copyfile(file, bare)
                zero_units(bare, hidden)
                yield LlamaCppProgram(library, file, bare, self._model.base.tokenizer)

    def description(self, name: str) -> tuple[str, list[str]]:
        how = f"```\nllama-cli -m {name}/{self._file}\n```"
        facts = _facts(self._wide, self.precision)
        if self._kind is None:
            facts[0] += " The tensors of the base keep their bytes; what was added follows them."
        return how, facts


class _Delta:
    """A folder with the memory alone; attributes and methods as of `_HuggingFace`."""

    def __init__(self, model: RunModel, options: Options):
        self._model = model
        self.precision = np.dtype(model.base.cfg.dtype).name

    @property
    def size(self) -> int:
        leaves = self._model.checkpoint.leaves("current.memory")
        return sum(math.prod(leaf.shape) for leaf in leaves.values()) * 4

    @property
    def reference_dtype(self) -> str:
        return self.precision

    def check(self) -> None:
        """Every memory has this form."""

    def write(self, folder: pathlib.Path) -> None:
        write_delta(self._model, folder)

    @contextlib.contextmanager
    def program(self, folder: pathlib.Path, library) -> Iterator[Program]:
        loaded = load_delta(folder)
        bare = {"params": loaded.variables["params"], **self._model.without_memory()}
        yield OwnProgram(loaded.cfg, loaded.variables, (loaded.cfg, bare), loaded.tokenizer)

    def description(self, name: str) -> tuple[str, list[str]]:
        how = "\n".join(
            [
                "```python",
                "from sleep_jax.export.delta import load_delta",
                "",
                f'model = load_delta("{name}")  # cfg, variables, tokenizer',
                "```",
            ]
        )
        return how, [f"`{WEIGHTS}` holds the slots alone; the base is loaded beside them."]


_FORMATS = {"hf": _HuggingFace, "gguf": _GGUF, "delta": _Delta}


def write_hugging_face(
    folder: pathlib.Path, model: AbsorbedModel, tokenizer, dtype: str, shard_bytes: int
) -> None:
    """Writes a model in Hugging Face layout, without a card: weights, `config.json`, tokenizer and
    generation config.

    Args:
      folder: that exists.
      model: that is written.
      tokenizer: of the model.
      dtype: of the weights, a key of `DTYPES`.
      shard_bytes: most of a file of weights.

    Raises:
      ValueError: as `write_shards`.
    """
    tensors = [
        Tensor(name, leaf.shape, lambda leaf=leaf, i=i: model.rows(leaf, i))
        for leaf in model.leaves
        for i, name in enumerate(leaf.huggingface)
    ]
    with phase_progress("write", len(tensors), "tensor") as bar:
        write_shards(folder, tensors, dtype, shard_bytes, bar.advance)
    source = model.base.folder if isinstance(model.base, SafetensorsFolder) else None
    fields = huggingface.config_fields(model.cfg, dtype)
    if source is not None:
        kept = dict(huggingface.read_config(source))
        fields = kept | {"intermediate_size": model.cfg.hidden}
        fields["dtype" if "dtype" in kept else "torch_dtype"] = dtype
    fields["eos_token_id"] = [*tokenizer.eos_ids]
    fields.setdefault("bos_token_id", tokenizer.bos_id)
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    write_tokenizer(tokenizer, folder, source, model.cfg.max_position)


def zero_units(path: pathlib.Path, hidden: int) -> None:
    """Sets the units of a GGUF file from `hidden` on to zero, in place: its base is left."""
    file = GGUFFile(path)
    data = np.memmap(path, mode="r+")
    for name in file.names():
        if not re.fullmatch(r"blk\.\d+\.ffn_down\.weight", name):
            continue
        tensor = file.tensor(name)
        block, block_bytes = gguf.GGML_QUANT_SIZES[tensor.kind]
        rows = data[tensor.start : tensor.start + tensor.size].reshape(tensor.shape[0], -1)
        rows[:, hidden // block * block_bytes :] = 0
    data.flush()


def _own(path: pathlib.Path, dtype: str, hidden: int, options) -> OwnProgram:
    """An export read by this program."""
    cfg, params, tokenizer = load_model(str(path), dtype=dtype, **options)
    params = jax.tree.map(jnp.asarray, params)
    bare = {"params": without_units(params, hidden)}
    return OwnProgram(cfg, {"params": params}, (cfg, bare), tokenizer)


def _template_variables(settings) -> dict[str, object]:
    """What transformers is to tell the chat template, as a run does."""
    import datetime

    today = datetime.date.fromisoformat(settings.date)
    return {"enable_thinking": settings.thinking, "date_string": today.strftime("%d %b %Y")}


def _numbers(model: AbsorbedModel) -> int:
    return sum(math.prod(leaf.shape) * (leaf.layers or 1) for leaf in model.leaves)


def _short(name: str) -> str:
    return pathlib.Path(name.rstrip("/")).name.removesuffix(".gguf")


def _facts(model: AbsorbedModel, precision: str) -> list[str]:
    added, hidden = model.units.width, model.base_cfg.hidden
    slots = sum(expert["down"].shape[1] for expert in model.units.experts)
    return [
        f"Each FFN has {hidden + added:,} hidden units, stored as {precision}: the base's "
        f"{hidden:,}, {slots} of the memory, and {added - slots} zero ones, so that the width is a "
        "multiple of what servers ask for."
    ]
