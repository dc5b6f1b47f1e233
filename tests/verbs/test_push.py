"""`export RUN FOLDER --to=... --push=NAME`, against a stand-in for the Hub."""

import dataclasses
import sys

import pytest
from hub_server import hub_server
from huggingface_hub import constants
from slept_run import write_slept_run

from sleep_jax.export.push import Repository
from sleep_jax.export.verify import Verification
from sleep_jax.verbs.main import main

ACCEPTED = Verification(
    program="sleep_jax", reference="the run in float32", questions=1, prompts_equal=1,
    replies_equal=1, tokens=9, distance=0.0, floor=0.0, floor_of="the base", precision="float32",
)  # fmt: skip


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The repositories of a stand-in, to which the client writes with a token that may."""
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    with hub_server() as (address, repositories):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        yield repositories


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on the tiny model."""
    return write_slept_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def verified(monkeypatch):
    """Exports are not compared here; what the comparison finds can be changed."""

    def answer(**changes):
        found = dataclasses.replace(ACCEPTED, **changes)
        monkeypatch.setattr("sleep_jax.export.exporting._verified", lambda *arguments: found)

    answer()
    return answer


def pushed(run, folder, *arguments):
    """The exit status of the command."""
    return main(["export", str(run), str(folder), "--to=delta", "--push=night", *arguments])


def files_of(folder):
    """The bytes of its files, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_push_commits_the_verified_folder(run, hub, verified, tmp_path, capsys):
    folder = tmp_path / "delta"
    assert pushed(run, folder) == 0
    [(name, repository)] = hub.items()
    assert name == "sleeper/night" and repository.visibility == "private"
    assert repository.files == files_of(folder) | {".gitattributes": b""}
    assert repository.commits == ["Export of a run of sleep_jax, as delta"]
    shown = capsys.readouterr().out.splitlines()[-1]
    address = f"{constants.ENDPOINT}/sleeper/night"
    assert shown == f"pushed: {address} (private), commit {1:040x}"


def test_push_again_is_one_more_commit_of_the_same_files(run, hub, verified, tmp_path, capsys):
    folder = tmp_path / "delta"
    assert pushed(run, folder, "--public") == 0
    repository = hub["sleeper/night"]
    assert repository.visibility == "public"
    repository.files["model-00007-of-00009.safetensors"] = b"of an earlier export"
    capsys.readouterr()
    assert pushed(run, folder) == 0
    assert repository.files == files_of(folder) | {".gitattributes": b""}
    assert len(repository.commits) == 2 and repository.visibility == "public"
    shown = capsys.readouterr().out
    assert f"{folder} holds this export already" in shown and "(as before), commit" in shown


def test_push_of_a_refused_export_is_left_undone(run, hub, verified, tmp_path, capsys):
    verified(distance=0.1)
    folder = tmp_path / "delta"
    assert pushed(run, folder) == 2
    assert "the export is not the model of" in capsys.readouterr().err
    (tmp_path / "delta.unverified").rename(folder)
    assert pushed(run, folder) == 2
    assert f"{folder} exists, but was not verified" in capsys.readouterr().err
    assert not hub


def test_push_of_another_folder_is_refused(run, hub, verified, tmp_path, capsys):
    folder = tmp_path / "delta"
    assert pushed(run, folder) == 0
    other = write_slept_run(tmp_path / "other", data__chunk_tokens=128)
    assert pushed(other, folder) == 2
    assert f"{folder} exists, and is not this export of {other}" in capsys.readouterr().err
    (folder / "README.md").unlink()
    assert pushed(run, folder) == 2
    assert len(hub["sleeper/night"].commits) == 1


@pytest.mark.parametrize(
    ("name", "token", "status", "words"),
    [
        ("a/b/c", "hf_write", 2, "--push='a/b/c' is no name on the Hub; give `model` or `owner/mo"),
        ("night", None, 2, "needs a token of Hugging Face; run `hf auth login`, or set HF_TOKEN"),
        ("night", "hf_wrong", 2, "the Hub does not accept the token (Invalid user token."),
        ("night", "hf_read", 2, "the token of sleeper may only read; set HF_TOKEN to one from"),
        ("other/night", "hf_write", 2, "the token may not write there (403"),
    ],
)
def test_push_without_permission_says_what_to_do(
    name, token, status, words, run, hub, verified, tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    assert pushed(run, tmp_path / "delta", f"--push={name}") == status
    error = capsys.readouterr().err
    assert error.startswith("error: --push=") and words in error
    assert not hub


def test_push_without_a_network_says_so(run, hub, verified, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert pushed(run, tmp_path / "delta") == 1
    error = capsys.readouterr().err
    assert "the Hub did not take it (" in error and "when there is a network" in error
    assert not (tmp_path / "delta").exists()


def test_push_without_its_package_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match="needs `pip install huggingface_hub`"):
        Repository.find("night")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--push=night", "--questions=0"], "--push pushes what was verified alone; give"),
        (["--public"], "--public says who may see what --push pushes; give --push=NAME too"),
    ],
)
def test_export_refuses_flags_that_contradict(arguments, words, run, tmp_path, capsys):
    assert main(["export", str(run), str(tmp_path / "x"), "--to=delta", *arguments]) == 2
    assert words in capsys.readouterr().err
