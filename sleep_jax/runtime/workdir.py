"""Checks of a work directory: it is writable, and a run in it has the same config, base and
documents.
"""

import json
import os
import uuid
from collections.abc import Mapping
from typing import Any

from etils import epath

from sleep_jax.addresses import check_answers, store_error
from sleep_jax.fields import read_object
from sleep_jax.renamed_fields import RENAMED

# Fields that change no result: devices, checkpoints, where hidden states are kept, and the path of
# the base, which is identified by its weights.
FREE = ("mesh.", "checkpoint.", "seeding.teacher_memory:", "model.name:")
# Fields of one command: what it gives to read.
GIVEN = ("data.documents:", "data.limit:", "data.episodes:")
# Fields that may change during a run: what to do when slots run out. Every checkpoint records the
# config that it was made with.
CHANGEABLE = ("memory.on_full:",)


def config_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The fields in which two configs (nested dicts) differ, as `name: old -> new`.

    Values are compared as JSON keeps them, so a tuple equals the list it comes back as.

    >>> config_difference({"seeding": {"steps": 3}}, {"seeding": {"steps": 4}})
    ['seeding.steps: 3 -> 4']
    """
    return differences(flat_config(old), flat_config(new))


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
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    workdir: str | os.PathLike[str],
    is_under_way: bool = False,
) -> list[str]:
    """Refuses to resume a run with another config, except for `FREE` fields.

    Args:
      old, new: configs, as nested dicts.
      workdir: of the run.
      is_under_way: `CHANGEABLE` fields may differ, too.

    Returns:
      The `CHANGEABLE` fields that differ, as `name: old -> new`.

    Raises:
      ValueError: naming the fields that differ and what to do.
    """
    if older := [name for name in flat_config(old) if name in RENAMED]:
        raise ValueError(
            f"{workdir} holds a run that was begun by an older version of sleep_jax: its config "
            f"has {older[0]}, which is called {RENAMED[older[0]]} now; finish it with that "
            "version, or use another --workdir"
        )
    changes = [c for c in config_difference(old, new) if not c.startswith(FREE)]
    allowed = [c for c in changes if is_under_way and c.startswith(CHANGEABLE)]
    if changes := [c for c in changes if c not in allowed]:
        raise ValueError(
            f"{workdir} holds a run of another config ({'; '.join(changes)}); "
            "use another --workdir, or delete this one to start over; to give it more days, and "
            f"these other settings, use --continue={workdir} without --config"
        )
    return allowed


def claim(workdir: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
    """Writes the settings of an experiment to `workdir/settings.json`; if the file exists, checks
    that it has the same settings.

    Raises:
      ValueError: it has others; as `check_same_config`.
    """
    path = epath.Path(workdir) / "settings.json"
    if path.exists():
        check_same_config(read_object(path), settings, workdir)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, default=str, indent=1))


def check_same_base(
    old: Mapping[str, Mapping[str, str]],
    new: Mapping[str, Mapping[str, str]],
    workdir: str | os.PathLike[str],
) -> None:
    """Refuses to resume a run with other weights than it was started with.

    Args:
      old: `Experiment.base` of the run; {} if it was not recorded.
      new: that of the model now.
      workdir: of the run.

    Raises:
      ValueError: naming the field, both weights and what to do.
    """
    for field, model in old.items():
        if field not in new or (field != "model.name" and new[field]["name"] != model["name"]):
            continue  # later nights have other teachers
        if model["weights"] != new[field]["weights"]:
            raise ValueError(
                f"{field}={new[field]['name']!r} has the weights {new[field]['weights']}, but the "
                f"run in {workdir} was started with {model['weights']} ({model['name']!r}); give "
                f"--config.{field} that model, or use another --workdir"
            )


def check_same_reading(old: str | None, new: str, workdir: str | os.PathLike[str]) -> None:
    """Refuses to resume a run that read other documents.

    Args:
      old: `Experiment.reading` of the run; None if it was not recorded.
      new: that of the documents now.
      workdir: of the run.

    Raises:
      ValueError: says what to do.
    """
    if old not in (None, new):
        raise ValueError(
            f"data.documents: the run in {workdir} has other documents or questions (fingerprint "
            f"{old}) than are there now ({new}); put them back as they were, or use another "
            f"--workdir; a run that was given more days goes on with --continue={workdir}"
        )


def check_writable(workdir: str | os.PathLike[str]) -> None:
    """Creates `workdir` and writes a test file there, before any long work.

    Raises:
      OSError: of the same class as the error (PermissionError, NotADirectoryError, ...), with the
        directory and the remedy; as `addresses.check_answers` where it is an address.
      ValueError: likewise.
    """
    check_answers(workdir)
    probe = epath.Path(workdir) / f".probe-{uuid.uuid4().hex}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text("sleep")
        probe.unlink()
    except Exception as error:
        if plain := store_error(error, workdir):
            raise plain from error
        if not isinstance(error, OSError):
            raise
        raise type(error)(
            f"cannot write to workdir={str(workdir)!r} ({error.strerror or error}); "
            "choose another with --workdir=DIRECTORY"
        ) from error


def days_path(workdir: str | os.PathLike[str]) -> epath.Path:
    """Path of the days of a run (`days`)."""
    return epath.Path(workdir) / "days.json"


def runs_in(folder: str | os.PathLike[str], most: int = 5) -> str:
    """Paths of the first runs in a folder, as text; "" where there is none."""
    runs = sorted(str(x.parent) for x in epath.Path(folder).glob("*/checkpoints"))
    return ", ".join(runs[:most]) + (f" and {len(runs) - most} more" if len(runs) > most else "")


def report_path(workdir: str | os.PathLike[str]) -> epath.Path:
    """Path of the report of a finished run."""
    return epath.Path(workdir) / "report.html"


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """The names whose values differ, as `name: old -> new`."""
    names = sorted(set(old) | set(new))
    return [
        f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        for name in names
        if old.get(name) != new.get(name)
    ]
