"""What a finished night left: the base model of a run with its memory, ready to be used."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from sleep_jax.config import RunConfig, read, restored
from sleep_jax.continuation import known_run
from sleep_jax.days import Day
from sleep_jax.experiment import Experiment, load_base, load_judge
from sleep_jax.export.delta import is_delta, load_delta
from sleep_jax.inspect.run import Run
from sleep_jax.interop.fingerprint import fingerprint
from sleep_jax.interop.prompts import Prompts
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.runtime.workdir import check_same_base
from sleep_jax.seeding.transaction import MemoryState


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A run as one of its checkpoints has it.

    Attributes:
      workdir: of the run.
      phase: label of the phase that the checkpoint is of.
      config: of the run, as that phase had it.
      record: of the run (`phases.run_state.RunState.record`).
      state: the memory, arrays of the host.
      cfg, params, tokenizer: the base model, its weights on the host.
    """

    workdir: str
    phase: str
    config: ml_collections.FrozenConfigDict
    record: dict[str, Any]
    state: MemoryState
    cfg: DecoderConfig
    params: Any
    tokenizer: Tokenizer

    @functools.cached_property
    def settings(self) -> RunConfig:
        """Its config as dataclasses."""
        return read(self.config)

    @property
    def prompts(self) -> Prompts:
        """Its prompts."""
        return Prompts(self.tokenizer)

    def days(self) -> tuple[Day, ...]:
        """Its days, with their documents.

        Raises:
          ValueError, OSError: as `known_run`.
        """
        return known_run(self.workdir).days

    def experiment(self) -> Experiment:
        """What asks the own questions of its record: an experiment without documents."""
        params = jax.tree.map(jnp.asarray, self.params)
        judge = load_judge(self.config.seeding.judge, self.cfg, params, self.tokenizer)
        return Experiment(
            config=self.config,
            cfg=self.cfg,
            params=params,
            tokenizer=self.tokenizer,
            days=(),
            others=(),
            topics=[],
            anchors={},
            judge=judge,
        )


def finished_run(workdir: str) -> Run:
    """A run that has ended a night.

    Raises:
      FileNotFoundError: there is no run, or none of its checkpoints is valid.
      ValueError: no night of it has ended yet.
    """
    run = Run(workdir)
    if not has_night(run.record):
        raise ValueError(
            f"{workdir}: no night has ended yet (the last phase is {run.latest.phase}); run "
            "launch.py with the same command to let it go on"
        )
    return run


def has_night(record: dict[str, Any]) -> bool:
    """Whether a consolidation has ended, kept or not."""
    return any(label.partition("-")[0] == "consolidate" for label in record["phases"])


def load_saved_run(workdir: str, phase: str = "-1") -> SavedRun:
    """Loads the model that a run has made.

    Args:
      workdir: of the run, or a folder of `export --to=delta`.
      phase: whose checkpoint is taken, by name or index; by default the last.

    Raises:
      FileNotFoundError, ValueError: as `finished_run`; there is no such phase; the base model is
        not there, or has other weights than the run began with.
    """
    if is_delta(workdir):
        return _of_delta(workdir)
    run = finished_run(workdir)
    try:
        checkpoint = run[phase]
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    settings = restored(checkpoint.record["config"], str(checkpoint.folder))
    config = ml_collections.FrozenConfigDict(settings)
    cfg, params, tokenizer = load_base(config)
    base = {"model.name": {"name": config.model.name, "weights": fingerprint(params)}}
    saved = {k: x for k, x in (checkpoint.record.get("base") or {}).items() if k in base}
    check_same_base(saved, base, workdir)
    current = checkpoint.restore("current")
    state = MemoryState(current["memory"], current["slots"])
    record = checkpoint.record["run"]
    return SavedRun(workdir, checkpoint.phase, config, record, state, cfg, params, tokenizer)


def _of_delta(folder: str) -> SavedRun:
    """What a folder of `export --to=delta` makes of its base."""
    loaded = load_delta(folder)
    state = MemoryState(loaded.variables["memory"], loaded.variables["slots"])
    config = ml_collections.FrozenConfigDict(restored(loaded.config, folder))
    model = loaded.cfg, loaded.variables["params"], loaded.tokenizer
    return SavedRun(folder, "delta", config, loaded.record, state, *model)
