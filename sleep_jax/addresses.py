"""Addresses in object stores: whether one answers, and errors in plain words where it does not.

What may be temporary (a network, an overloaded store) is a ConnectionError; what the user has to
fix is another error. `cli.errors.exit_status` turns either into an exit status.
"""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator

SECONDS = 20.0  # how long to wait for an answer, while gcsfs retries
SCHEMES = ("gs", "s3", "az")  # of epath
TEMPORARY = (408, 429, *range(500, 600))
# HTTP statuses by their names in TensorStore. (A missing file is no error of the store.)
TENSORSTORE_STATUS = {
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
# Libraries whose errors are network errors. (Those of Python itself may have other causes.)
NETWORK = ("aiohttp", "requests", "urllib3", "fsspec")
READERS = ("fsspec", "gcsfs", "s3fs", "adlfs")


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an address in an object store."""
    return "://" in os.fspath(path)


def check_answers(address: str | os.PathLike[str]) -> None:
    """Checks that the store of an address answers, before anything else is done; returns at once
    for a path on disk. Waits up to `SECONDS` for an answer, and gcsfs half as long for credentials.

    Raises:
      ConnectionError: the store does not answer, or cannot now.
      PermissionError: there are no valid credentials, or access is refused.
      FileNotFoundError: the bucket does not exist.
      ValueError: this is not an address, or the package that opens it is not installed.
    """
    address = os.fspath(address)
    if not (parts := re.match(r"(\w+):(/+)([^/]*)", address)):
        return
    scheme, slashes, bucket = parts.groups()
    if scheme not in SCHEMES or slashes != "//" or not bucket:
        raise ValueError(f"{address}: write an address as gs://BUCKET/FOLDER")
    if scheme == "gs":
        with raising_store_errors(address):
            _ask_cloud_storage(bucket)


@contextlib.contextmanager
def raising_store_errors(address: str | os.PathLike[str]) -> Iterator[None]:
    """Turns errors of the store of an address into those of `check_answers`; others pass."""
    try:
        yield
    except Exception as error:
        if (plain := store_error(error, address)) is None:
            raise
        raise plain from error


def store_error(error: Exception, address: str | os.PathLike[str]) -> Exception | None:
    """An error of a client of a store (gcsfs, TensorStore, Google's libraries) as one of the errors
    of `check_answers`.

    Returns:
      None for any other error, for one that is of `check_answers` already, and for a path on disk.
    """
    address = os.fspath(address)
    if not is_remote(address) or str(error).startswith(address):
        return None
    if isinstance(error, ImportError) and any(name in str(error) for name in READERS):
        return ValueError(
            f"{address} is an address, and the package that opens it is not installed ({error}); "
            "pip install -e '.[gs]', or give a directory"
        )
    message = " ".join(str(error).split()) or type(error).__name__
    message = re.sub(r"^Forbidden: \S+ |, [45]\d\d$", "", message)[:160]  # added by gcsfs
    code, bucket = _code(error), address.split("/")[2]
    if code in TEMPORARY:
        return ConnectionError(
            f"{address}: the store cannot answer now ({code}: {message}); this may be temporary: "
            "run the same command again"
        )
    if code == 401:
        return PermissionError(
            f"{address}: the store has no valid credentials of yours (401: {message}); "
            "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS=KEY.json"
        )
    if code == 403:
        return PermissionError(
            f"{address}: access is refused (403: {message}); give your account "
            f"roles/storage.objectAdmin of the bucket {bucket}"
        )
    if code == 404:
        return FileNotFoundError(
            f"{address}: there is no bucket {bucket} (404); make it with `gcloud storage buckets "
            f"create gs://{bucket}`, or give another"
        )
    if code is not None:
        return ValueError(f"{address}: the store refuses this ({code}: {message})")
    if _is_of(error, *NETWORK):
        return ConnectionError(
            f"{address} does not answer ({message}); check the network, and run the same command "
            "again: this may be temporary"
        )
    return None


def _ask_cloud_storage(bucket: str) -> None:
    import fsspec
    from fsspec.exceptions import FSTimeoutError

    with _retries_of_gcsfs() as retries:
        store = fsspec.filesystem("gcs", finalize_on_close=True)  # the instance that epath will use
        try:
            store.call("GET", "b/{}/o", bucket, maxResults=1, timeout=SECONDS)
        except FileNotFoundError as error:
            raise _NoBucket(str(error)) from None
        except TimeoutError:
            raise retries.last or FSTimeoutError(f"no answer in {SECONDS:g} s") from None


class _NoBucket(Exception):
    code = 404


class _LastRetry(logging.Handler):
    """Keeps the errors for which gcsfs retries, in place of logging them.

    Attributes:
      last: the last one.
    """

    last: Exception | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.module == "retry":  # not from its search for credentials
            self.last = sys.exc_info()[1]


@contextlib.contextmanager
def _retries_of_gcsfs() -> Iterator[_LastRetry]:
    logger, handler = logging.getLogger("gcsfs"), _LastRetry()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        # Without a handler gcsfs prints the traceback of what it raises; callers print the message.
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


def _code(error: Exception) -> int | None:
    """The HTTP status that an error stands for; None if it is no error of a store."""
    if any(_is_of(x, "google.auth") and _is_temporary(x) for x in _causes(error)):
        return 503
    if isinstance(error, OSError) and str(error).startswith("Forbidden: "):  # gcsfs
        return 403
    for code in (getattr(error, "code", None), getattr(error, "status", None)):
        if re.fullmatch(r"[45]\d\d", str(getattr(code, "value", code))):
            return int(getattr(code, "value", code))
    if _is_of(error, "google.auth"):
        return 401
    is_of_tensorstore = isinstance(error, ValueError | OSError) and "gs://" in str(error)
    if is_of_tensorstore and (
        match := re.match(rf"({'|'.join(TENSORSTORE_STATUS)}): ", str(error))
    ):
        return TENSORSTORE_STATUS[match[1]]
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


def _is_temporary(error: BaseException) -> bool:
    """Whether an error of google.auth is that the server of credentials was not reached."""
    return type(error).__name__ == "TransportError" or bool(getattr(error, "retryable", False))


def _is_of(error: BaseException, *libraries: str) -> bool:
    """Whether the class of an error is defined in one of some packages."""
    return f"{type(error).__module__}.".startswith(tuple(f"{name}." for name in libraries))
