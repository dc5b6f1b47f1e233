"""Object stores that do not answer or refuse: messages, exit statuses, and a bound on the time."""

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
from cloud_storage import FAILURES, assert_fails_in_words
from gcsfs.retry import HttpError

from sleep_jax.addresses import check_answers, raising_store_errors, store_error
from sleep_jax.cli.errors import exit_status
from sleep_jax.cli.flags import run_with_config
from sleep_jax.runtime.workdir import check_writable
from sleep_jax.verbs.main import main

RUN = "gs://bucket/run"


@pytest.mark.parametrize("status", FAILURES)
def test_check_writable_of_a_failing_store_ends_in_one_line(store, status, tmp_path, capfd):
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
    assert_fails_in_words(status, ended.value.code, capfd.readouterr().err, RUN)


@pytest.mark.parametrize("status", FAILURES)
def test_inspect_of_a_failing_store_ends_in_one_line(store, status, capfd):
    with cloud_storage.answering(status) as address:
        store(address)
        exit_status = main(["inspect", RUN])
    assert_fails_in_words(status, exit_status, capfd.readouterr().err, RUN)


def test_inspect_of_an_address_without_gcsfs_names_the_extra(monkeypatch, capsys):
    def missing(*_, **__):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    assert main(["inspect", RUN]) == 2
    stderr = capsys.readouterr().err
    assert "pip install -e '.[gs]'" in stderr and stderr.count("\n") == 1


def test_check_answers_gives_up_a_store_that_never_answers(store):
    with socket.create_server(("127.0.0.1", 0)) as server:
        store(f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(ConnectionError, match=r"does not answer \(no answer in 0.5 s\)"):
            check_answers(RUN)


def test_sweep_in_a_store_that_refuses_is_not_begun():
    with cloud_storage.answering(403) as address:
        exit_status, stderr, _ = cloud_storage.command(
            "launch.py",
            "--sweep=configs/sweeps/alpha_tiny.py",
            f"--workdir={RUN}",
            STORAGE_EMULATOR_HOST=address,
        )
    assert_fails_in_words(403, exit_status, stderr, RUN)


@pytest.mark.slow
@pytest.mark.parametrize("status", FAILURES)
@pytest.mark.parametrize(
    "arguments",
    [
        ("launch.py", "--config=configs/sleep_tiny.py", f"--workdir={RUN}"),
        ("-m", "sleep_jax", "inspect", RUN),
    ],
)
def test_command_ends_within_half_a_minute_of_a_failing_store(status, arguments):
    with cloud_storage.answering(status) as address:
        exit_status, stderr, seconds = cloud_storage.command(
            *arguments, STORAGE_EMULATOR_HOST=address
        )
    assert_fails_in_words(status, exit_status, stderr, RUN)
    assert seconds < 90  # on a busy machine


@pytest.mark.parametrize("address", ["gcs://bucket/run", "gs:/bucket/run", "gs://", "gs:///run"])
def test_check_answers_refuses_malformed_addresses(address):
    with pytest.raises(ValueError, match=r"write an address as gs://BUCKET/FOLDER"):
        check_answers(address)


def test_check_answers_of_a_path_on_disk_returns_at_once(tmp_path):
    check_answers(tmp_path)
    check_answers("runs/a:b")


def failed_renewal(cause):
    """What gcsfs raises when credentials cannot be renewed."""
    error = HttpError({"code": 401, "message": "Invalid Credentials"})
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (HttpError({"code": 429, "message": "slow down"}), ConnectionError, 1),
        (HttpError({"code": 400, "message": "bad name"}), ValueError, 2),
        (failed_renewal(google.auth.exceptions.RefreshError("invalid_grant")), PermissionError, 2),
        (failed_renewal(google.auth.exceptions.TransportError("metadata")), ConnectionError, 1),
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
def test_fault_tells_temporary_errors_from_permanent_ones(error, kind, status):
    plain = store_error(error, RUN)
    assert isinstance(plain, kind) and exit_status(plain) == status
    assert str(plain).startswith(RUN) and "\n" not in str(plain)
    assert store_error(plain, RUN) is None  # it is in words already
    assert store_error(error, "runs/here") is None


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
def test_in_words_leaves_other_errors_as_they_are(error):
    with pytest.raises(type(error)) as raised, raising_store_errors(RUN):
        raise error
    assert raised.value is error
