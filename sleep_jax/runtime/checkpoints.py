"""One checkpoint after every phase, so that a run that stops goes on where it was.

A checkpoint is a folder `workdir/checkpoints/<phase index>` written by Orbax, holding `state` (the
arrays) and `record` (the facts, as JSON). Its last file is `digests.json`, the SHA-256 of all the
others: a folder without it was never finished, and one that disagrees with it was damaged.
"""

import hashlib
import json
import os
import uuid
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from sleep_jax.runtime.metrics import is_remote

DIGESTS = "digests.json"
FREE = ("mesh.", "checkpoint.")  # sections of a config that may change during a run


class PhaseCheckpoints:
    """Saves and restores the state between phases; a context manager.

    Args:
      directory: where the checkpoints live, e.g. `workdir/checkpoints`; made when missing.
      keep: how many stay, the last ones; 0: all.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 0):
        directory = directory if is_remote(directory) else os.path.abspath(directory)
        self._directory = epath.Path(directory)
        options = ocp.CheckpointManagerOptions(
            enable_async_checkpointing=False, max_to_keep=keep or None
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "record": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(
            self._directory, options=options, item_handlers=handlers
        )

    def save(self, phase_index: int, phase: str, *, state: Any, record: Mapping[str, Any]) -> None:
        """Writes the state a finished phase leaves behind; returns when it is safely on disk.

        Checkpoints of this phase and of later ones are removed first: they came from an attempt
        that this one replaces.

        Args:
          phase_index: position of the phase in the run, from 0.
          phase: its name.
          state: pytree of arrays (raw arrays: typed PRNG keys as `jax.random.key_data`).
          record: JSON-able facts, such as the config and the scores so far.

        Raises:
          TypeError: `record` holds something JSON does not know.
        """
        facts = json.loads(json.dumps({"phase": phase, "record": dict(record)}))
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
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            _seal(self._folder(phase_index))

    def latest(self) -> tuple[int, str] | None:
        """Index and name of the last phase whose checkpoint is whole; None without one.

        Warns of every damaged or unfinished checkpoint it passes over.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            if problem := damage(self._folder(step)):
                warnings.warn(
                    f"checkpoint {self._folder(step)} is passed over: {problem}; "
                    "the one before it is used",
                    stacklevel=2,
                )
                continue
            return step, self._facts(step)["phase"]
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
        return self._facts(phase_index)["record"]

    def clear(self) -> None:
        """Removes all checkpoints."""
        for step in self._manager.all_steps():
            self._manager.delete(step)

    def close(self) -> None:
        """Releases what Orbax holds."""
        self._manager.close()

    def __enter__(self) -> "PhaseCheckpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _folder(self, step: int) -> epath.Path:
        return self._directory / str(step)

    def _facts(self, step: int) -> dict[str, Any]:
        args = ocp.args.Composite(record=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args).record

    def _check_structure(self, step: int, target: Any) -> None:
        """Says in words which leaves differ, before Orbax says it in its own."""
        found = _shapes(self._manager.item_metadata(step).state)
        if changes := _changes(found, _shapes(target)):
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
        sealed = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "it was never finished"
    except ValueError:
        return f"its {DIGESTS} is damaged"
    if missing := sorted(name for name in sealed if not (folder / name).exists()):
        return f"{missing[0]} is missing"
    for name, digest in sealed.items() if is_thorough else ():
        if _digest(folder / name) != digest:
            return f"{name} is damaged"
    return None


def config_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The fields in which two configs (nested dicts) differ, as `name: old -> new`.

    Values are compared as JSON keeps them, so a tuple equals the list it comes back as.

    >>> config_difference({"seeding": {"steps": 3}}, {"seeding": {"steps": 4}})
    ['seeding.steps: 3 -> 4']
    """
    return _changes(flat_config(old), flat_config(new))


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested dicts as one, with dotted names and the values as JSON text.

    >>> flat_config({"seeding": {"steps": 3}})
    {'seeding.steps': '3'}
    """
    fields: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            fields |= flat_config(value, f"{prefix}{name}.")
        else:
            fields[f"{prefix}{name}"] = json.dumps(value, default=str, ensure_ascii=False)
    return fields


def check_same_config(
    old: Mapping[str, Any], new: Mapping[str, Any], workdir: str | os.PathLike[str]
) -> None:
    """Refuses to go on with a run under a config it was not started with, another mesh and other
    checkpoints excepted: where a run is computed and what is kept of it is no part of it.

    Raises:
      ValueError: naming the fields that differ and what to do.
    """
    changes = [c for c in config_difference(old, new) if not c.startswith(FREE)]
    if changes:
        raise ValueError(
            f"{workdir} holds a run of another config ({'; '.join(changes)}); "
            "use another --workdir, or delete this one to start over"
        )


def check_writable(workdir: str | os.PathLike[str]) -> None:
    """Makes `workdir` and tries to write there, before any long work.

    Raises:
      OSError: of the kind that was met (PermissionError, NotADirectoryError, ...), naming the
        directory and the remedy.
      ValueError: it is an address, and what reaches it is not installed.
    """
    probe = epath.Path(workdir) / f".probe-{uuid.uuid4().hex}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text("sleep")
        probe.unlink()
    except ImportError as error:
        raise ValueError(
            f"workdir={str(workdir)!r} is an address; pip install 'sleep_jax[gs]' brings what "
            "reaches it, or choose a directory"
        ) from error
    except OSError as error:
        raise type(error)(
            f"cannot write to workdir={str(workdir)!r} ({error.strerror or error}); "
            "choose another with --workdir=DIRECTORY"
        ) from error


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    names = sorted(set(old) | set(new))
    return [
        f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        for name in names
        if old.get(name) != new.get(name)
    ]


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
