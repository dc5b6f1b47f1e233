"""How a command ends where nobody wants to hear more: without a traceback.

Ctrl-C                        status 130; while modules are loaded, too: `loads_quietly`, called by
                              the first line of a command
the reader is gone (`| head`) status 141
a terminal without Unicode    what it cannot show becomes "?"
"""

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator

INTERRUPTED, UNREAD = 130, 141  # what a shell says of SIGINT and SIGPIPE


def loads_quietly() -> None:
    """From here to `hears_again` Ctrl-C ends the process at once."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def hears_again() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt, as Python has it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def quietly(remark: str = "stopped") -> Iterator[None]:
    """Runs a command.

    Args:
      remark: what is said on stderr after Ctrl-C.

    Raises:
      SystemExit: it was interrupted, or nobody reads what it prints.
    """
    hears_again()
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
        if not is_unread():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to come
        raise SystemExit(UNREAD) from None


def is_unread() -> bool:
    """Whether stdout is a pipe whose reader has gone."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
