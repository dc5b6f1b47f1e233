"""Addresses in an object store: whether one answers, and in words what is wrong where it does not.

What may pass by itself (a network, a store that has too much to do) is a ConnectionError; what has
to be mended is another error. `cli.flags.exit_status` makes a status of either.
"""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator

SECONDS = 20.0  # that an answer is waited for, while gcsfs asks again
SCHEMES = ("gs", "s3", "az")  # that epath knows
MAY_PASS = (408, 429, *range(500, 600))
# What TensorStore calls the statuses of a store. (A file that is not there is no fault of a store.)
NAMED = {
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
# Libraries whose errors are those of a network. Those of Python itself may be of another one.
NETWORK = ("aiohttp", "requests", "urllib3", "fsspec")
READERS = ("fsspec", "gcsfs", "s3fs", "adlfs")


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an address in an object store."""
    return "://" in os.fspath(path)


def check_answers(address: str | os.PathLike[str]) -> None:
    """Asks for what lies at an address, once and before anything else does; returns at once of a
    path on disk. Waits `SECONDS` for an answer, and gcsfs half as long for credentials.

    Raises:
      ConnectionError: the store does not answer, or not now.
      PermissionError: it does not know who asks, or refuses him.
      FileNotFoundError: there is no such bucket.
      ValueError: this is no address, or what reaches it is not installed.
    """
    address = os.fspath(address)
    if not (parts := re.match(r"(\w+):(/+)([^/]*)", address)):
        return
    scheme, slashes, bucket = parts.groups()
    if scheme not in SCHEMES or slashes != "//" or not bucket:
        raise ValueError(f"{address}: write an address as gs://BUCKET/FOLDER")
    if scheme == "gs":
        with in_words(address):
            _ask_cloud_storage(bucket)


@contextlib.contextmanager
def in_words(address: str | os.PathLike[str]) -> Iterator[None]:
    """Raises what goes wrong with an address as `check_answers` does; all else as it is."""
    try:
        yield
    except Exception as error:
        if (plain := fault(error, address)) is None:
            raise
        raise plain from error


def fault(error: Exception, address: str | os.PathLike[str]) -> Exception | None:
    """What an error of those who ask a store (gcsfs, TensorStore, Google's libraries) says, as one
    of the errors of `check_answers`; None of another one, of one that is such an error already, and
    of a path on disk."""
    address = os.fspath(address)
    if not is_remote(address) or str(error).startswith(address):
        return None
    if isinstance(error, ImportError) and any(name in str(error) for name in READERS):
        return ValueError(
            f"{address} is an address, and what reaches it is not installed ({error}); "
            "pip install -e '.[gs]' brings it, or choose a directory"
        )
    said = " ".join(str(error).split()) or type(error).__name__
    said = re.sub(r"^Forbidden: \S+ |, [45]\d\d$", "", said)[:160]  # gcsfs's own
    code, bucket = _code(error), address.split("/")[2]
    if code in MAY_PASS:
        return ConnectionError(
            f"{address}: the store cannot answer now ({code}: {said}); this may pass, the same "
            "command goes on"
        )
    if code == 401:
        return PermissionError(
            f"{address}: the store does not know who asks (401: {said}); "
            "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS=KEY.json"
        )
    if code == 403:
        return PermissionError(
            f"{address}: access is refused (403: {said}); give the account that asks "
            f"roles/storage.objectAdmin of the bucket {bucket}"
        )
    if code == 404:
        return FileNotFoundError(
            f"{address}: there is no bucket {bucket} (404); make it with `gcloud storage buckets "
            f"create gs://{bucket}`, or name another"
        )
    if code is not None:
        return ValueError(f"{address}: the store refuses this ({code}: {said})")
    if _is_of(error, *NETWORK):
        return ConnectionError(
            f"{address} does not answer ({said}); look to the network: this may pass, the same "
            "command goes on"
        )
    return None


def _ask_cloud_storage(bucket: str) -> None:
    import fsspec
    from fsspec.exceptions import FSTimeoutError

    with _listening() as heard:
        store = fsspec.filesystem("gcs", finalize_on_close=True)  # the one that epath will use
        try:
            store.call("GET", "b/{}/o", bucket, maxResults=1, timeout=SECONDS)
        except FileNotFoundError as error:
            raise _NoBucket(str(error)) from None
        except TimeoutError:
            raise heard.last or FSTimeoutError(f"no answer in {SECONDS:g} s") from None


class _NoBucket(Exception):
    code = 404


class _Heard(logging.Handler):
    """Keeps what gcsfs meets, for which it asks again and again, from the terminal.

    Attributes:
      last: what it met last.
    """

    last: Exception | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.module == "retry":  # not one of the ways to credentials that it tries in turn
            self.last = sys.exc_info()[1]


@contextlib.contextmanager
def _listening() -> Iterator[_Heard]:
    logger, heard = logging.getLogger("gcsfs"), _Heard()
    level = logger.level
    logger.addHandler(heard)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield heard
    finally:
        logger.removeHandler(heard)
        logger.setLevel(level)
        # It would print the traceback of what it raises, too; those who ask say it in words.
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


def _code(error: Exception) -> int | None:
    """The HTTP status that an error stands for."""
    if any(_is_of(x, "google.auth") and _may_pass(x) for x in _causes(error)):
        return 503
    if isinstance(error, OSError) and str(error).startswith("Forbidden: "):  # gcsfs
        return 403
    for code in (getattr(error, "code", None), getattr(error, "status", None)):
        if re.fullmatch(r"[45]\d\d", str(getattr(code, "value", code))):
            return int(getattr(code, "value", code))
    if _is_of(error, "google.auth"):
        return 401
    is_of_tensorstore = isinstance(error, ValueError | OSError) and "gs://" in str(error)
    if is_of_tensorstore and (found := re.match(rf"({'|'.join(NAMED)}): ", str(error))):
        return NAMED[found[1]]
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _may_pass(error: BaseException) -> bool:
    """Of an error of google.auth: who would have given the credentials was not reached."""
    return type(error).__name__ == "TransportError" or bool(getattr(error, "retryable", False))


def _is_of(error: BaseException, *libraries: str) -> bool:
    return f"{type(error).__module__}.".startswith(tuple(f"{name}." for name in libraries))
