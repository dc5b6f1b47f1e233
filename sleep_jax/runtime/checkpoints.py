"""One checkpoint after every phase, so that a run that stops goes on where it was.

A checkpoint is a folder `workdir/checkpoints/<phase index>` written by Orbax, holding `state` (the
arrays) and `record` (the facts, as JSON). Its last file is `digests.json`, the SHA-256 of all the
others: a folder without it was never finished, and one that disagrees with it was damaged.

The run goes on while a checkpoint is written and sealed; until then the one before it is the last.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from sleep_jax.addresses import is_remote
from sleep_jax.fields import named, read_object
from sleep_jax.runtime.workdir import differences

DIGESTS = "digests.json"
UNFINISHED = "it was never finished"


class _Manager(ocp.CheckpointManager):
    """Leaves it to `preemption.Watch` to ask whether processes are to stop: they are told once, at
    one count of their polls, and Orbax would ask with the steps of its checkpoints."""

    def reached_preemption(self, step: int) -> bool:
        return False


class PhaseCheckpoints:
    """Saves and restores the state between phases; a context manager.

    One checkpoint is written at a time: whatever is asked meanwhile waits for it, and so does
    leaving the context.

    Args:
      directory: where the checkpoints live, e.g. `workdir/checkpoints`; made when missing.
      keep: how many stay, the last ones; 0: all.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 0):
        directory = directory if is_remote(directory) else os.path.abspath(directory)
        self._directory = epath.Path(directory)
        self._keep = keep
        options = ocp.CheckpointManagerOptions(enable_async_checkpointing=True)
        handlers = {"state": ocp.StandardCheckpointHandler(), "record": ocp.JsonCheckpointHandler()}
        self._manager = _Manager(self._directory, options=options, item_handlers=handlers)
        self._sealer = ThreadPoolExecutor(1, "seal")
        self._sealing: Future | None = None  # of the checkpoint that is being written

    def save(self, phase_index: int, phase: str, *, state: Any, record: Mapping[str, Any]) -> None:
        """Begins to write the state a finished phase leaves behind; returns when it is copied.

        From then on programs may overwrite it: Orbax has brought it to the host. On a CPU it holds
        the arrays themselves, and JAX gives a program that is donated one of them a copy.

        Checkpoints of this phase and of later ones are removed first: they came from an attempt
        that this one replaces.

        Args:
          phase_index: position of the phase in the run, from 0.
          phase: its name.
          state: pytree of arrays (raw arrays: typed PRNG keys as `jax.random.key_data`).
          record: JSON-able facts, such as the config and the scores so far.

        Raises:
          TypeError: `record` holds something JSON does not know.
          Exception: as `wait`.
        """
        facts = json.loads(json.dumps({"phase": phase, "record": dict(record)}))
        self.wait()
        for step in self._manager.all_steps():
            if step >= phase_index:
                self._manager.delete(step)
        self._manager.save(
            phase_index,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_without_scalars(state), _a_chunk_a_slot(state)),
                record=ocp.args.JsonSave(facts),
            ),
        )
        self._sealing = self._sealer.submit(self._seal_once_written, phase_index)

    def wait(self) -> None:
        """Returns when what was saved is safely on disk; then those that are not to stay go.

        Raises:
          Exception: what writing it raised, e.g. because the disk is full.
        """
        if not self._finish():
            return
        if jax.process_count() > 1:  # process 0 seals for all
            multihost_utils.sync_global_devices("checkpoint sealed")
        steps = sorted(self._manager.all_steps())
        for step in steps[: -self._keep] if self._keep else ():
            self._manager.delete(step)

    def latest(self, *, may_lose: bool = False) -> tuple[int, str] | None:
        """Index and name of the last phase whose checkpoint is whole; None without one.

        Warns of every damaged or unfinished checkpoint it passes over.

        Args:
          may_lose: damaged ones may be replaced, also where none is whole.

        Raises:
          ValueError: there are finished ones, but none is whole; the next save would remove them.
        """
        self.wait()
        is_damaged = False
        for step in sorted(self._manager.all_steps(), reverse=True):
            if problem := damage(self._folder(step)):
                warnings.warn(
                    f"checkpoint {self._folder(step)} is passed over: {problem}",
                    stacklevel=2,
                )
                is_damaged |= problem != UNFINISHED
                continue
            return step, self._facts(step)["phase"]
        if is_damaged and not may_lose:
            raise ValueError(
                f"{self._directory}: no checkpoint is whole; bring one back from a copy, use "
                "another --workdir, or delete this one to begin anew"
            )
        return None

    def restore(self, phase_index: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """Reads back what `save` wrote.

        Args:
          phase_index: which checkpoint, as `latest` says.
          abstract_state: pytree of arrays or `jax.ShapeDtypeStruct` with the shapes, dtypes and
            shardings the state shall have.

        Returns:
          (state, record).

        Raises:
          FileNotFoundError: there is no such checkpoint.
          ValueError: the checkpoint holds a state of another structure.
        """
        self.wait()
        if phase_index not in self._manager.all_steps():
            raise FileNotFoundError(f"no checkpoint {phase_index} in {self._directory}")
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _without_scalars(abstract_state))
        self._check_structure(phase_index, target)
        restored = self._manager.restore(
            phase_index, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
        )
        return restored.state, self._facts(phase_index)["record"]

    def record(self, phase_index: int) -> dict[str, Any]:
        """The facts alone, before any state is built, e.g. to compare configs."""
        self.wait()
        return self._facts(phase_index)["record"]

    def clear(self) -> None:
        """Removes all checkpoints."""
        self.wait()
        for step in self._manager.all_steps():
            self._manager.delete(step)

    def close(self) -> None:
        """Waits for what is being written, and releases what Orbax holds."""
        try:
            self._finish()  # alone: other processes may go on where an error ends this one
        finally:
            self._manager.close()
            self._sealer.shutdown()

    def __enter__(self) -> "PhaseCheckpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _folder(self, step: int) -> epath.Path:
        return self._directory / str(step)

    def _finish(self) -> bool:
        """Waits for what is being written; whether there was anything."""
        if self._sealing is None:
            return False
        sealing, self._sealing = self._sealing, None
        self._manager.wait_until_finished()
        sealing.result()
        return True

    def _seal_once_written(self, step: int) -> None:
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            _seal(self._folder(step))

    def _facts(self, step: int) -> dict[str, Any]:
        args = ocp.args.Composite(record=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args).record

    def _check_structure(self, step: int, target: Any) -> None:
        """Says in words which leaves differ, before Orbax says it in its own."""
        found = _shapes(self._manager.item_metadata(step).state)
        if changes := differences(found, _shapes(target)):
            more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
            raise ValueError(
                f"checkpoint {self._folder(step)} holds another state than this config builds "
                f"({'; '.join(changes[:5])}{more}); use another --workdir or delete this one"
            )


def damage(folder: epath.PathLike, *, is_thorough: bool = True) -> str | None:
    """What is wrong with a checkpoint, in words; None when it is whole.

    Args:
      folder: of the checkpoint.
      is_thorough: read every file and compare it with its digest, not only look for it.
    """
    folder = epath.Path(folder)
    try:
        sealed = read_object(folder / DIGESTS)
    except FileNotFoundError:
        return UNFINISHED
    except (OSError, ValueError):
        return f"its {DIGESTS} is damaged"
    if not sealed or not all(isinstance(x, str) for x in sealed.values()):
        return f"its {DIGESTS} is damaged"
    # Names of it are looked up, never followed: they may be anything.
    there = {path.relative_to(folder).as_posix() for path in _files(folder)}
    if missing := sorted(sealed.keys() - there):
        return f"{named(missing[0])} is missing"
    for name, digest in sealed.items() if is_thorough else ():
        if _digest(folder / name) != digest:
            return f"{name} is damaged"
    return None


def _shapes(tree: Any) -> dict[str, str]:
    """{"memory.up": "float32[2, 64]"}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def _without_scalars(tree: Any) -> Any:
    """Python and NumPy scalars as arrays of shape [], which is what Orbax restores."""
    is_scalar = (bool, int, float, np.generic)
    return jax.tree.map(lambda x: np.asarray(x) if isinstance(x, is_scalar) else x, tree)


def _a_chunk_a_slot(state: Any) -> Any:
    """How the leaves are cut on disk: an expert bank by its slots (axis 1), so that one of them can
    be read alone."""

    def cut(path, _):
        names = jax.tree_util.keystr(path, simple=True, separator=".").split(".")
        return ocp.SaveArgs(shard_axes=(1,) if "experts" in names else ())

    return jax.tree_util.tree_map_with_path(cut, state)


def _digest(path: epath.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests(folder: epath.Path) -> dict[str, str]:
    files = sorted(path for path in _files(folder) if path.name != DIGESTS)
    return {path.relative_to(folder).as_posix(): _digest(path) for path in files}


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        yield from _files(path) if path.is_dir() else (path,)


def _seal(folder: epath.Path) -> None:
    """Writes the digests in one move: a checkpoint is sealed or it is not."""
    draft = folder / f"{DIGESTS}.new"
    digests = _digests(folder)
    draft.write_text(json.dumps(digests, indent=1), encoding="utf-8")
    draft.replace(folder / DIGESTS)
