"""How a command ends after an error, and how it shows warnings: in one line."""

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator

# The kinds of OSError that the user has to fix; others (a network, a disk) may be temporary.
PERMANENT = (
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)


def exit_status(error: Exception) -> int:
    """1 for an error that may be temporary (a network, a disk), so that another start makes sense;
    2 for one that the user has to fix.
    """
    return 1 if isinstance(error, OSError) and not isinstance(error, PERMANENT) else 2


@contextlib.contextmanager
def warning_in_one_line() -> Iterator[None]:
    """Meanwhile a UserWarning is printed once and without its line of code; other warnings are
    shown as before.
    """
    with warnings.catch_warnings():  # restores showwarning at the end
        warnings.showwarning = _in_one_line(warnings.showwarning)
        yield


def _in_one_line(showwarning: Callable[..., None]) -> Callable[..., None]:
    shown: set[str] = set()

    def show(message, category, *where, **more):
        if category is not UserWarning:
            showwarning(message, category, *where, **more)
        elif str(message) not in shown:
            shown.add(str(message))
            print(f"warning: {message}", file=sys.stderr)

    return show
