"""Commands end without a traceback when they are interrupted or nobody reads their output.

Ctrl-C                        exit status 130, also while modules are imported: the first line of a
                              command calls `loads_quietly`
the reader is gone (`| head`) exit status 141
a terminal without Unicode    characters that it cannot show become "?"
"""

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator

INTERRUPTED, UNREAD = 130, 141  # exit statuses that a shell gives to SIGINT and SIGPIPE


def loads_quietly() -> None:
    """From here to `restore_interrupt` Ctrl-C ends the process at once, without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def restore_interrupt() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt, as is usual."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def ending_quietly(remark: str = "interrupted") -> Iterator[None]:
    """Runs a command that ends without a traceback.

    Args:
      remark: printed on stderr after Ctrl-C.

    Raises:
      SystemExit: the command was interrupted, or nobody reads its output.
    """
    restore_interrupt()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print(remark, file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        if not is_reader_gone():
            raise
        # What is flushed at exit goes there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(UNREAD) from None


def is_reader_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
