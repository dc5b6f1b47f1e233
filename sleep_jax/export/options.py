"""How to export, and what every format has to say of itself."""

import dataclasses
import pathlib
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from sleep_jax.export.programs import Program
from sleep_jax.interop.absorbed_model import AbsorbedModel
from sleep_jax.interop.gguf_writer import FILE_TYPES

TYPES = ("base", *(kind.name for kind in FILE_TYPES))
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclasses.dataclass(frozen=True)
class Options:
    """How to export.

    Attributes:
      to: `hf`, `gguf`, `delta` or `peft`.
      dtype: of hf and peft: float32, bfloat16 or float16; "": the run's.
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


class Export(Protocol):
    """A run in one format. Made from a `RunModel` and `Options`, which it checks."""

    precision: str  # of the weights that it stores
    reference_dtype: str  # that the run computes in when it is compared
    size: int  # bytes that it takes while it is made, about
    has_base: bool  # whether `program` has the base too, for the noise floor
    is_merged: bool  # whether memory was added to the base's own matrices

    def write(self, folder: pathlib.Path, on_tensor: Callable[[], None]) -> None:
        """Writes all but the card into a folder; calls `on_tensor` `tensors` times."""

    @property
    def tensors(self) -> int:
        """Tensors to write."""

    def program(self, folder: pathlib.Path) -> AbstractContextManager[Program]:
        """A program with the written export."""

    def description(self, name: str) -> tuple[str, list[str]]:
        """(how to use the folder of this name, as Markdown; facts, a line each), for the card."""


def bytes_of(text: str) -> int:
    """The number of bytes in a text such as `5GB` or `800MB`.

    Raises:
      ValueError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)B?", text.strip().upper())
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size < 1:
        raise ValueError(f"--shard_size={text!r}; give a size such as 5GB or 800MB")
    return size


def widths(model: AbsorbedModel, precision: str) -> str:
    """A line for the card: how wide the FFNs are, and what of."""
    added, hidden = model.units.width, model.base_cfg.hidden
    of_memory = sum(expert["down"].shape[1] for expert in model.units.experts)
    return (
        f"Each FFN has {hidden + added:,} hidden units, stored as {precision}: the base's "
        f"{hidden:,}, {of_memory} of the memory, and {added - of_memory} zero ones, so that the "
        "width is a multiple of what servers ask for."
    )
