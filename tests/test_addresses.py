"""An object store that does not answer, or refuses: words and statuses, within a bounded time."""

import socket
import time

import pytest

pytest.importorskip("gcsfs")

import aiohttp
import cloud_storage
import fsspec
import google.api_core.exceptions
import google.auth.exceptions
import requests
from gcsfs.retry import HttpError

from sleep_jax.addresses import check_answers, fault, in_words
from sleep_jax.cli.flags import exit_status, run_with_config
from sleep_jax.inspect.__main__ import main
from sleep_jax.runtime.workdir import check_writable

RUN = "gs://bucket/run"
WORDS = {
    0: (1, "error: gs://bucket/run does not answer (Cannot connect to host 127.0.0.1:"),
    401: (2, "error: gs://bucket/run: the store does not know who asks (401: Anonymous caller"),
    403: (2, "error: gs://bucket/run: access is refused (403: sleep@example.com does not have"),
    404: (2, "error: gs://bucket/run: there is no bucket bucket (404); make it with `gcloud"),
    503: (1, "error: gs://bucket/run: the store cannot answer now (503: We encountered an int"),
}


@pytest.mark.parametrize("status", WORDS)
def test_check_writable_of_a_store_that_fails_ends_in_one_line_and_its_status(
    store, status, tmp_path, capfd
):
    config = tmp_path / "a.py"
    config.write_text("import ml_collections\nget_config = ml_collections.ConfigDict\n")
    with cloud_storage.answering(status) as address:
        store(address)
        start = time.monotonic()
        with pytest.raises(SystemExit) as ended:
            run_with_config(
                lambda config, workdir: check_writable(workdir),
                print,
                about="",
                argv=["launch.py", f"--config={config}", f"--workdir={RUN}"],
            )
    assert time.monotonic() - start < 10
    said = capfd.readouterr().err
    code, words = WORDS[status]
    assert ended.value.code == code
    assert said.startswith(words) and said.count("\n") == 1 and "Traceback" not in said


@pytest.mark.parametrize("status", WORDS)
def test_inspect_of_a_store_that_fails_ends_in_one_line_and_its_status(store, status, capfd):
    with cloud_storage.answering(status) as address:
        store(address)
        assert main([RUN]) == WORDS[status][0]
    said = capfd.readouterr().err
    assert said.startswith(WORDS[status][1]) and said.count("\n") == 1


def test_inspect_of_an_address_without_what_reaches_it_names_the_extra(monkeypatch, capsys):
    def lacking(*_, **__):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec, "filesystem", lacking)
    assert main([RUN]) == 2
    said = capsys.readouterr().err
    assert "pip install -e '.[gs]'" in said and said.count("\n") == 1


def test_a_store_that_takes_calls_and_never_answers_is_given_up(store):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ConnectionError, match=r"does not answer \(no answer in 0.5 s\)"):
            check_answers(RUN)


def test_a_sweep_of_a_store_that_refuses_is_not_begun():
    with cloud_storage.answering(403) as address:
        status, said, _ = cloud_storage.command(
            "launch.py",
            "--sweep=configs/sweeps/alpha_tiny.py",
            f"--workdir={RUN}",
            STORAGE_EMULATOR_HOST=address,
        )
    assert status == 2 and said.startswith(WORDS[403][1]) and said.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("status", WORDS)
@pytest.mark.parametrize(
    "arguments",
    [
        ("launch.py", "--config=configs/sleep_tiny.py", f"--workdir={RUN}"),
        ("-m", "sleep_jax.inspect", RUN),
    ],
)
def test_a_command_gives_a_store_that_fails_half_a_minute(status, arguments):
    with cloud_storage.answering(status) as address:
        ended, said, seconds = cloud_storage.command(*arguments, STORAGE_EMULATOR_HOST=address)
    assert ended == WORDS[status][0] and said.startswith(WORDS[status][1])
    assert said.count("\n") == 1 and seconds < 90  # on a machine that does much else


@pytest.mark.parametrize("address", ["gcs://bucket/run", "gs:/bucket/run", "gs://", "gs:///run"])
def test_check_answers_refuses_what_is_no_address(address):
    with pytest.raises(ValueError, match=r"write an address as gs://BUCKET/FOLDER"):
        check_answers(address)


def test_check_answers_asks_nobody_about_a_path_on_disk(tmp_path):
    check_answers(tmp_path)
    check_answers("runs/a:b")


def renewed(cause):
    """What gcsfs raises where credentials cannot be renewed."""
    error = HttpError({"code": 401, "message": "Invalid Credentials"})
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (HttpError({"code": 429, "message": "slow down"}), ConnectionError, 1),
        (HttpError({"code": 400, "message": "bad name"}), ValueError, 2),
        (renewed(google.auth.exceptions.RefreshError("invalid_grant")), PermissionError, 2),
        (renewed(google.auth.exceptions.TransportError("metadata")), ConnectionError, 1),
        (google.auth.exceptions.DefaultCredentialsError("none"), PermissionError, 2),
        (requests.exceptions.ConnectTimeout(), ConnectionError, 1),
        (aiohttp.ServerDisconnectedError(), ConnectionError, 1),
        (fsspec.FSTimeoutError(), ConnectionError, 1),
        (ValueError("UNAVAILABLE: Error opening gs://bucket/run/0"), ConnectionError, 1),
        (ValueError("PERMISSION_DENIED: Error reading gs://bucket/run"), PermissionError, 2),
        (google.api_core.exceptions.NotFound("bucket"), FileNotFoundError, 2),
        (google.api_core.exceptions.ServiceUnavailable("later"), ConnectionError, 1),
        (ModuleNotFoundError("No module named 'gcsfs'"), ValueError, 2),
    ],
)
def test_fault_tells_what_may_pass_from_what_is_to_be_mended(error, kind, status):
    found = fault(error, RUN)
    assert isinstance(found, kind) and exit_status(found) == status
    assert str(found).startswith(RUN) and "\n" not in str(found)
    assert fault(found, RUN) is None  # it is one already
    assert fault(error, "runs/here") is None


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        ConnectionError("model 'a/b' is no local path"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
        ModuleNotFoundError("No module named 'docx'"),
        FileNotFoundError("gs://bucket/run/0"),
    ],
)
def test_what_is_no_fault_of_the_store_is_raised_as_it_is(error):
    with pytest.raises(type(error)) as raised, in_words(RUN):
        raise error
    assert raised.value is error
