"""The memory of a run alone: what its nights have added to a base, loadable onto it again.

A folder with `delta.json`: the run's config, its base by name and fingerprint, and with
`delta.safetensors`: the slots in use, and wake weights that change something, in the layers that
carry memory. Projections are stored in the dtype that the model computes in, to which every program
casts them first: the loaded model computes the same bits. Gates of a router stay float32.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sleep_jax.export.options import Options
from sleep_jax.export.programs import OwnProgram, Program
from sleep_jax.export.run_model import MEMORY, Base, RunModel, empty_memory
from sleep_jax.fields import read_object, reason
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.memory.slots import ROUTING, level_of
from sleep_jax.models.decoder_config import DecoderConfig

MANIFEST, WEIGHTS, VERSION = "delta.json", "delta.safetensors", 1
KEPT = ("slot", "asked", "scores")  # of the record of a day


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model that can be asked.

    Attributes:
      cfg, variables, tokenizer: the decoder, its collections params, memory and slots, in scanned
        form, and its tokenizer.
      config: of the run that made it, nested dicts.
      record: of that run: its phases, and of its days `KEPT`.
    """

    cfg: DecoderConfig
    variables: dict[str, Any]
    tokenizer: Tokenizer
    config: dict[str, Any]
    record: dict[str, Any]


class DeltaExport:
    """A folder with the memory alone; attributes and methods as of `Export`."""

    def __init__(self, model: RunModel, options: Options):
        self._model = model
        self.precision = self.reference_dtype = np.dtype(model.base.cfg.dtype).name
        self.size = 4 * sum(math.prod(x.shape) for x in model.checkpoint.leaves(MEMORY).values())
        self.tensors = 1
        self.has_base, self.is_merged = True, False

    def write(self, folder: pathlib.Path, on_tensor: Callable[[], None]) -> None:
        write_delta(self._model, folder)
        on_tensor()

    @contextlib.contextmanager
    def program(self, folder: pathlib.Path) -> Iterator[Program]:
        loaded = load_delta(folder)
        base = {"params": loaded.variables["params"], **self._model.without_memory()}
        yield OwnProgram(loaded.cfg, loaded.variables, (loaded.cfg, base), loaded.tokenizer)

    def description(self, name: str) -> tuple[str, list[str]]:
        lines = [
            "```python",
            "from sleep_jax.export.delta import load_delta",
            "",
            f'model = load_delta("{name}")  # its cfg, variables and tokenizer',
            "```",
        ]
        return "\n".join(lines), [f"`{WEIGHTS}` holds the slots alone, to be put onto the base."]


def is_delta(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a delta."""
    return (pathlib.Path(folder) / MANIFEST).exists()


def write_delta(model: RunModel, folder: pathlib.Path) -> None:
    """Writes the memory of a run into a folder that exists."""
    cfg, tensors, record = model.base.cfg, {}, model.checkpoint.record["run"]
    carried = _carriers(cfg)
    for level, masks in model.slots["layers"].items():
        active = np.asarray(masks.get("active", np.zeros((1, 0), bool)))
        if active.any():
            tensors[f"{level}.active"] = active
        parts = {f"slot_{i}": i for i in np.flatnonzero(active.any(axis=0)).tolist()}
        for part, slot in (parts | ({"wake": None} if _has_wake(cfg, level) else {})).items():
            weights = model.expert(level, slot)
            if slot is None and not np.any(weights["down"]):
                continue
            for leaf, x in weights.items():
                stored = np.float32 if leaf in ROUTING else cfg.dtype
                tensors[f"{level}.{part}.{leaf}"] = np.ascontiguousarray(x[carried], stored)
    (folder / WEIGHTS).write_bytes(save(tensors))
    manifest = {
        "version": VERSION,
        "base": model.run.base.get("model.name", {"name": model.base.settings.model.name}),
        "config": model.checkpoint.record["config"],
        "run": {
            "phases": record["phases"],
            "days": [{name: day[name] for name in KEPT if name in day} for day in record["days"]],
        },
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(f"{text}\n", encoding="utf-8")


def _carriers(cfg: DecoderConfig) -> list[int]:
    """The layers that carry memory, as indices of the stack that begins with the first of them."""
    carriers = cfg.memory.carriers(cfg.layers)
    return [layer - carriers[0] for layer in carriers]


def _has_wake(cfg: DecoderConfig, level: str) -> bool:
    return cfg.memory.has_wake(level_of(level))


def load_delta(folder: str | os.PathLike[str], base: str | None = None) -> LoadedModel:
    """A base with the memory of a run, as `write_delta` wrote it.

    Args:
      folder: of the delta.
      base: where the base lies, as `--config.model.name`; None: where the run had it.

    Raises:
      FileNotFoundError: there is no delta, or no base.
      ValueError: it is damaged, or the base has other weights than the run's.
    """
    folder = pathlib.Path(folder)
    if not is_delta(folder):
        raise FileNotFoundError(f"no {MANIFEST} in {folder}; give a folder of --to=delta")
    manifest = read_object(folder / MANIFEST)
    if manifest.whole("version") != VERSION:
        manifest.refuse("version", f"{VERSION}, the one that this version of sleep_jax reads")
    recorded = dict(manifest.section("config"))
    if base is not None:
        recorded["model"] = {**recorded.get("model", {}), "name": base}
    opened = Base.open(recorded, str(folder))
    memory = read_memory(folder, opened.cfg)
    weights = manifest.section("base").text("weights", None)
    params = opened.params(opened.settings.model.dtype, weights)
    variables = {"params": params, **memory}
    record = dict(manifest.section("run"))
    return LoadedModel(opened.cfg, variables, opened.tokenizer, recorded, record)


def read_memory(folder: pathlib.Path, cfg: DecoderConfig) -> dict[str, Any]:
    """The collections `memory` and `slots` of a delta; what it leaves out is 0.

    Args:
      folder: of the delta.
      cfg: of the decoder with the run's memory.

    Raises:
      ValueError: the file is damaged, or holds what `cfg` has no place for.
    """
    collections = empty_memory(cfg)
    places = _places(cfg, collections["memory"]["layers"], collections["slots"]["layers"])
    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="numpy") as file:
            for name in sorted(file.keys()):
                array, index = places[name]
                tensor = file.get_tensor(name)
                if tensor.shape != array[index].shape:
                    raise ValueError(f"{name} has shape {list(tensor.shape)}")
                array[index] = tensor
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged, or not the memory of this config ({reason(error)}); export it "
            "again"
        ) from error
    return collections


def _places(cfg: DecoderConfig, memory, slots) -> dict[str, tuple[np.ndarray, Any]]:
    """Every name that a delta may hold: (array, index) of where it belongs."""
    carried, places = _carriers(cfg), {}
    for level, masks in slots.items():
        if "active" in masks:
            places[f"{level}.active"] = masks["active"], ...
        for leaf, array in memory[level].get("experts", {}).items():
            for slot in range(array.shape[1]):
                places[f"{level}.slot_{slot}.{leaf}"] = array, (carried, slot)
        for leaf, array in memory[level].get("wake", {}).items():
            places[f"{level}.wake.{leaf}"] = array, carried
    return places
