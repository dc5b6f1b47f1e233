"""What a run has become, from its last checkpoint and its base, with the weights still on disk."""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.config import RunConfig, read, restored
from sleep_jax.experiment import template_options
from sleep_jax.inspect.checkpoint import Checkpoint
from sleep_jax.inspect.run import Run
from sleep_jax.interop.absorb import Units, units_of
from sleep_jax.interop.absorbed_model import AbsorbedModel
from sleep_jax.interop.fingerprint import fingerprint
from sleep_jax.interop.load import open_model
from sleep_jax.interop.low_rank import Adapter, MergedModel, adapter_of
from sleep_jax.interop.tensors import ParamsInMemory, WeightsFile, read_params
from sleep_jax.interop.tiny import tiny_model
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.memory.slots import init_memory
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import place

MEMORY, SLOTS = "current.memory.layers", "current.slots.layers"


@dataclasses.dataclass(frozen=True)
class Base:
    """A base model, its weights in their files.

    Attributes:
      settings: of the run that it belongs to.
      cfg: of the decoder with the run's memory, in its dtype.
      weights: the open checkpoint.
      tokenizer: of the model.
    """

    settings: RunConfig
    cfg: DecoderConfig
    weights: WeightsFile
    tokenizer: Tokenizer

    @classmethod
    def open(cls, recorded: dict[str, Any], where: str) -> "Base":
        """The base of a run.

        Args:
          recorded: the run's config as its checkpoints have it, nested dicts.
          where: what has it, for errors.

        Raises:
          ValueError, OSError: as `config.restored` and `load_model`.
        """
        config = restored(recorded, where)
        settings, model, template = read(config), config.model, template_options(config)
        dtype = jnp.dtype(model.dtype).type
        if model.name == "tiny":
            cfg, params, tokenizer = tiny_model(dtype=dtype, seed=settings.seed, **template)
            weights: WeightsFile = ParamsInMemory(cfg, params)
        else:
            cfg, weights, tokenizer = open_model(model.name, **template)
        cfg = cfg.replace(dtype=dtype, memory=settings.memory, remat=model.remat)
        return cls(settings, cfg, weights, tokenizer)

    def params(self, dtype: str, recorded: str | None) -> dict:
        """The weights, read, and compared with those that the run began with.

        Args:
          dtype: `float32` or `bfloat16`.
          recorded: the fingerprint of the run; None: it has none.

        Raises:
          ValueError: they are others, or damaged.
        """
        params = read_params(self.cfg, self.weights, jnp.dtype(dtype))
        if recorded is not None:
            own = fingerprint(jax.tree_util.tree_map_with_path(self._in_run_dtype, params))
            if own != recorded:
                name = self.settings.model.name
                raise ValueError(
                    f"model.name={name!r} has the weights {own}, but the run was made with "
                    f"{recorded}; put the model of the run where it was"
                )
        return jax.tree.map(jnp.asarray, place(params, "params"))

    def _in_run_dtype(self, path, x):
        return x if path[-1].key == "scale" else x.astype(self.cfg.dtype, copy=False)


@dataclasses.dataclass(frozen=True)
class RunModel:
    """A run and its base.

    Attributes:
      run: as it is on disk.
      checkpoint: the last one.
      base: of the run.
    """

    run: Run
    checkpoint: Checkpoint
    base: Base

    @classmethod
    def open(cls, workdir: str | os.PathLike[str]) -> "RunModel":
        """Opens a run in which at least one night is over.

        Raises:
          FileNotFoundError: there is no run, or no checkpoint.
          ValueError: no slot is in use yet; or as `Base.open`.
        """
        run = Run(workdir)
        checkpoint = run.latest
        base = Base.open(checkpoint.record["config"], str(checkpoint.folder))
        model = cls(run, checkpoint, base)
        if not model.has_memory:
            done = ", ".join(checkpoint.record["run"]["phases"])
            raise ValueError(
                f"{workdir}: no night has left anything yet (done: {done}); its model is the base. "
                "Let a night be finished first"
            )
        return model

    @property
    def base_fingerprint(self) -> str | None:
        """That of the weights which the run began with; None if it was not recorded."""
        return self.run.base.get("model.name", {}).get("weights")

    @property
    def slots(self) -> dict[str, Any]:
        """The `slots` collection."""
        return {"layers": self.checkpoint.restore(SLOTS)}

    @property
    def has_memory(self) -> bool:
        """Whether any slot is in use or any wake weights change something."""
        levels = self.slots["layers"]
        if any(np.any(masks.get("active", False)) for masks in levels.values()):
            return True
        wake = [name for name in self.checkpoint.leaves(MEMORY) if name.endswith(".wake.down")]
        return any(np.any(self.checkpoint.read(name)) for name in wake)

    def expert(self, level: str, slot: int | None) -> dict[str, np.ndarray]:
        """The weights of a slot of a level (`level_1`) in all layers, or its wake weights."""
        part = "wake" if slot is None else "experts"
        return self.checkpoint.restore(f"{MEMORY}.{level}.{part}", slot)

    def units(self, pad: int) -> Units:
        """Its memory as hidden units; arguments and errors as of `units_of`."""
        return units_of(self.base.cfg, self.slots, self.expert, pad)

    def absorbed(self, pad: int) -> AbsorbedModel:
        """Its base with the memory absorbed; errors as of `units_of`."""
        return AbsorbedModel(self.base.cfg, self.base.weights, self.units(pad))

    def adapter(self) -> Adapter:
        """Its memory as one LoRA adapter; errors as of `adapter_of`."""
        return adapter_of(self.base.cfg, self.slots, self.expert)

    def merged(self) -> MergedModel:
        """Its base with that adapter merged into the matrices."""
        return MergedModel(self.base.cfg, self.base.weights, self.adapter())

    def memory(self) -> dict[str, Any]:
        """The `memory` and `slots` collections, as the checkpoint has them."""
        return {"memory": {"layers": self.checkpoint.restore(MEMORY)}, "slots": self.slots}

    def without_memory(self) -> dict[str, Any]:
        """The same collections of the base alone, which change nothing."""
        return empty_memory(self.base.cfg)


def empty_memory(cfg: DecoderConfig) -> dict[str, Any]:
    """The collections `memory` and `slots` of a decoder, all zeros, as numpy arrays."""
    shapes = jax.eval_shape(
        lambda key: init_memory(
            key, cfg.memory, layers=cfg.layers, width=cfg.width, hidden=cfg.hidden
        )[0],
        jax.random.key(0),
    )
    _, slots = init_memory(jax.random.key(0), cfg.memory, layers=cfg.layers, width=1, hidden=1)
    memory = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    return {"memory": memory, "slots": jax.tree.map(np.array, slots)}
