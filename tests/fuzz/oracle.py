"""The allowed outcomes of reading a file: success, or one error of at most two lines that names it.

Anything else is a fault: another exception, silence beyond a time limit, more memory than twice the
file's size beside a small allowance.
"""

import dataclasses
import pathlib
import re
import resource
import signal
import time
import traceback
import tracemalloc
from collections.abc import Callable

MAX_SECONDS = 5.0  # of CPU time for one file
ALLOWANCE = 8 * 2**20  # bytes of Python objects, in addition to twice the size of the file
NATIVE = 64 * 2**20  # bytes by which a file may raise the peak memory of the process
MAX_ERROR = 1000  # characters of an error, without the path


class TooSlow(BaseException):
    """Raised by the timer while reading; not caught by `except Exception`."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """An outcome that is not allowed.

    Attributes:
      kind: the same for the same fault: exception and where it was raised.
      words: what was seen.
    """

    kind: str
    words: str


def judge(
    read: Callable[[pathlib.Path], object], folder: pathlib.Path, size: int, is_traced: bool = True
) -> Fault | None:
    """Reads a folder; returns the fault, or None.

    Args:
      read: of the format.
      folder: with the files, one of which was changed.
      size: of that file, in bytes.
      is_traced: count every byte that Python allocates, which takes time; the peak of the process
        is looked at in any case.

    Signals are used: only in the main thread.
    """

    def stop(*_):
        raise TooSlow

    before = signal.signal(signal.SIGPROF, stop)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if is_traced:
        tracemalloc.start()
    began, used, fault = time.process_time(), 0, None
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    try:
        read(folder)
    except (ValueError, OSError) as error:
        fault = _of_words(error, folder)
    except TooSlow as error:
        fault = Fault(f"slow at {_where(error)}", f"more than {MAX_SECONDS:g} s")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a Rust panic is not an Exception
        fault = Fault(f"{type(error).__name__} at {_where(error)}", _words(error))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        if is_traced:
            used = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    if fault is None and time.process_time() - began > MAX_SECONDS:
        fault = Fault("slow outside Python", f"{time.process_time() - began:.1f} s")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
    if fault is None and (used > 2 * size + ALLOWANCE or grown > 2 * size + NATIVE):
        fault = Fault("memory", f"{used:,} bytes traced, {grown:,} of the process, file {size:,}")
    return fault


def _of_words(error: Exception, folder: pathlib.Path) -> Fault | None:
    """Whether an error has an allowed type and message, which any terminal can show."""
    words = str(error)
    where = f"{type(error).__name__} at {_where(error)}"
    if str(folder) not in words:
        return Fault(f"names no file: {where}", words)
    if len(words.splitlines()) > 2:
        return Fault(f"more than two lines: {where}", words)
    if len(words.replace(str(folder), "")) > MAX_ERROR:
        return Fault(f"more than {MAX_ERROR} characters: {where}", words[:300])
    try:
        words.encode("utf-8")
    except UnicodeEncodeError:
        return Fault(f"cannot be written: {where}", ascii(words))
    return None


def _where(error: BaseException) -> str:
    """The last place in the project, and the last one."""
    frames = traceback.extract_tb(error.__traceback__)
    in_project = [
        x for x in frames if re.search(r"/(sleep_jax|experiments)/(?!.*site-packages)", x.filename)
    ]
    named = [f"{pathlib.Path(x.filename).name}:{x.name}" for x in (*in_project[-1:], *frames[-1:])]
    return " > ".join(dict.fromkeys(named))


def _words(error: BaseException) -> str:
    return ascii(str(error))[:300]
