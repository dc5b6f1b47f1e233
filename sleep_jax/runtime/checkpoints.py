"""One checkpoint after every phase, from which a run that was stopped resumes.

A checkpoint is a folder `workdir/checkpoints/<phase index>` written by Orbax, with `state` (arrays,
those that it would hold twice but once: `shared_leaves`) and `record` (facts, as JSON). Its last
file is `digests.json`, the SHA-256 of all other files: a
folder without it is unfinished, and one that does not match it is damaged.

A checkpoint is written and sealed in the background; until it is, the one before it is the latest.
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
from sleep_jax.runtime.shared_leaves import (
    Shared,
    completed,
    is_bank,
    reference_of,
    stored_target,
    without_shared,
)
from sleep_jax.runtime.workdir import differences

DIGESTS = "digests.json"
UNFINISHED = "it was never finished"


class _Manager(ocp.CheckpointManager):
    """A manager that does not poll for preemption: `preemption.Watch` does. JAX answers at one poll
    count only, and Orbax would poll with its own checkpoint steps.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class PhaseCheckpoints:
    """Saves and restores the state between phases; a context manager.

    One checkpoint is written at a time: other calls wait for it, and so does leaving the context.

    Args:
      directory: of the checkpoints, e.g. `workdir/checkpoints`; created if missing.
      keep: how many of the latest to keep; 0: all.
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
        """Starts to write the state after a phase; returns when the state has been copied.

        Programs may overwrite the state then: Orbax has copied it to the host. On a CPU Orbax holds
        the arrays themselves, and JAX copies an array that is donated meanwhile.

        Checkpoints of this phase and of later ones are removed first: they are from an earlier
        attempt.

        Args:
          phase_index: position of the phase in the run, from 0.
          phase: name of the phase.
          state: pytree of arrays (raw arrays: typed PRNG keys as `jax.random.key_data`).
          record: JSON-able facts, such as the config and the scores so far.

        Raises:
          TypeError: `record` is not JSON-able.
          Exception: as `wait`.
        """
        facts = json.loads(json.dumps({"phase": phase, "record": dict(record)}))
        self.wait()
        state, facts["shared"] = without_shared(_without_scalars(state))
        for step in self._manager.all_steps():
            if step >= phase_index:
                self._manager.delete(step)
        self._manager.save(
            phase_index,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state, _chunks_by_slot(state)),
                record=ocp.args.JsonSave(facts),
            ),
        )
        self._sealing = self._sealer.submit(self._seal_once_written, phase_index)

    def wait(self) -> None:
        """Returns when the last save is on disk; then removes checkpoints beyond `keep`.

        Raises:
          Exception: an error of writing it, e.g. that the disk is full.
        """
        if not self._finish():
            return
        if jax.process_count() > 1:  # process 0 seals for all of them
            multihost_utils.sync_global_devices("checkpoint sealed")
        steps = sorted(self._manager.all_steps())
        for step in steps[: -self._keep] if self._keep else ():
            self._manager.delete(step)

    def latest(self, *, may_lose: bool = False) -> tuple[int, str] | None:
        """Index and name of the last phase with a valid checkpoint; None without one.

        Warns of every damaged or unfinished checkpoint that it skips.

        Args:
          may_lose: damaged checkpoints may be overwritten, even if none is valid.

        Raises:
          ValueError: there are finished checkpoints, but none is valid; the next save would remove
            them.
        """
        self.wait()
        is_damaged = False
        for step in sorted(self._manager.all_steps(), reverse=True):
            if problem := damage(self._folder(step)):
                warnings.warn(
                    f"checkpoint {self._folder(step)} is skipped: {problem}",
                    stacklevel=2,
                )
                is_damaged |= problem != UNFINISHED
                continue
            return step, self._facts(step)["phase"]
        if is_damaged and not may_lose:
            raise ValueError(
                f"{self._directory}: no checkpoint is valid; restore one from a copy, use another "
                "--workdir, or delete this one to start over"
            )
        return None

    def restore(self, phase_index: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """Reads a checkpoint.

        Args:
          phase_index: of the checkpoint, as returned by `latest`.
          abstract_state: pytree of arrays or `jax.ShapeDtypeStruct` with the shapes, dtypes and
            shardings of the state.

        Returns:
          (state, record).

        Raises:
          FileNotFoundError: there is no such checkpoint.
          ValueError: the state in the checkpoint has another structure.
        """
        self.wait()
        if phase_index not in self._manager.all_steps():
            raise FileNotFoundError(f"no checkpoint {phase_index} in {self._directory}")
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _without_scalars(abstract_state))
        facts = self._facts(phase_index)
        shared = facts.get("shared", {})  # older checkpoints hold all that they have
        self._check_structure(phase_index, target, shared)
        stored = _stored_part(
            ocp.tree.serialize_tree(stored_target(target, shared), keep_empty_nodes=True),
            self._manager.item_metadata(phase_index).state.tree,
        )
        restored = self._manager.restore(
            phase_index, args=ocp.args.Composite(state=ocp.args.StandardRestore(stored))
        )
        leaves = completed(_by_path(restored.state), shared)
        state = jax.tree_util.tree_map_with_path(lambda path, _: leaves[_name(path)], target)
        return state, facts["record"]

    def record(self, phase_index: int) -> dict[str, Any]:
        """The facts of a checkpoint without its state, e.g. to compare configs."""
        self.wait()
        return self._facts(phase_index)["record"]

    def remove(self, phase_index: int) -> None:
        """Removes a checkpoint."""
        self.wait()
        self._manager.delete(phase_index)

    def clear(self) -> None:
        """Removes all checkpoints."""
        self.wait()
        for step in self._manager.all_steps():
            self._manager.delete(step)

    def close(self) -> None:
        """Waits for the save under way and releases the resources of Orbax."""
        try:
            self._finish()  # without a barrier, which other processes may never reach
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
        """Waits for the save under way; returns whether there was one."""
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

    def _check_structure(self, step: int, target: Any, shared: Shared) -> None:
        """Raises an error that names the leaves that differ, before Orbax raises its own."""
        saved = _shapes(self._manager.item_metadata(step).state)
        saved |= {name: saved[reference_of(name)] for name in shared}
        if changes := differences(saved, _shapes(target)):
            more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
            raise ValueError(
                f"checkpoint {self._folder(step)} has another state than this config makes "
                f"({'; '.join(changes[:5])}{more}); use another --workdir or delete this one"
            )


def last_record(directory: epath.PathLike) -> dict[str, Any] | None:
    """The record of the last finished checkpoint in a directory, without its state, read without a
    device; None where there is none.
    """
    folders = [x for x in epath.Path(directory).glob("*") if x.name.isdigit()]
    for folder in sorted(folders, key=lambda x: int(x.name), reverse=True):
        if damage(folder, is_thorough=False) is None:
            return dict(read_object(folder / "record" / "metadata").section("record"))
    return None


def damage(folder: epath.PathLike, *, is_thorough: bool = True) -> str | None:
    """What is wrong with a checkpoint, as text; None if it is valid.

    Args:
      folder: of the checkpoint.
      is_thorough: compare every file with its digest; otherwise only check that it exists.
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
    # The names come from a file: they are compared with existing paths, never opened.
    existing = {path.relative_to(folder).as_posix() for path in _files(folder)}
    if missing := sorted(sealed.keys() - existing):
        return f"{named(missing[0])} is missing"
    for name, digest in sealed.items() if is_thorough else ():
        if _digest(folder / name) != digest:
            return f"{name} is damaged"
    return None


def _name(path: Any) -> str:
    """`memory.up` of a key path."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _by_path(tree: Any) -> dict[str, Any]:
    """The leaves by path."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _shapes(tree: Any) -> dict[str, str]:
    """Shapes of the leaves by path: {"memory.up": "float32[2, 64]"}."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in _by_path(tree).items()}


def _stored_part(tree: Any, saved: Any) -> Any:
    """A tree of dicts and lists without the entries that a checkpoint does not have.

    Those have no leaves (`_check_structure`): fields that were added since and that this run leaves
    empty, which Orbax would miss.
    """
    if isinstance(tree, dict):
        return {key: _stored_part(x, saved[key]) for key, x in tree.items() if key in saved}
    if isinstance(tree, list):
        return [_stored_part(x, y) for x, y in zip(tree, saved)]
    return tree


def _without_scalars(tree: Any) -> Any:
    """The tree with Python and NumPy scalars as arrays of shape [], which Orbax can restore."""
    is_scalar = (bool, int, float, np.generic)
    return jax.tree.map(lambda x: np.asarray(x) if isinstance(x, is_scalar) else x, tree)


def _chunks_by_slot(state: Any) -> Any:
    """Save options by leaf: expert banks are stored in one chunk a slot (axis 1), so that a single
    slot can be read.
    """

    def save_args(path, _):
        return ocp.SaveArgs(shard_axes=(1,) if is_bank(_name(path)) else ())

    return jax.tree_util.tree_map_with_path(save_args, state)


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
    """Writes the digests atomically: a checkpoint is sealed or it is not."""
    draft = folder / f"{DIGESTS}.new"
    digests = _digests(folder)
    draft.write_text(json.dumps(digests, indent=1), encoding="utf-8")
    draft.replace(folder / DIGESTS)
